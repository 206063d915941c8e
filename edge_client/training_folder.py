"""The folder of the training at hand: the base model, the trained one, and what they belong to.

What was trained is kept until its receipt has come. A round that begins anew with another enclave key, or
a later one that takes updates of this base model, is then handed the same training, sealed again.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_client.assignment import Assignment
from edge_client.storage import sync_folder, write_private_file

_MEMBERS = frozenset({"federation_id", "base_version", "base_model_digest", "sample_count", "metrics"})


@dataclass(frozen=True)
class KeptTraining:
    """A training that was not acknowledged yet; the models lie in the folder."""

    federation_id: bytes
    base_version: int
    base_model_digest: bytes
    sample_count: int
    metrics: dict[str, float]

    def fits(self, assignment: Assignment) -> bool:
        """Return whether the round takes updates of this base model."""
        taken = {assignment.base_model_digest, *(base.model_digest for base in assignment.older_bases)}
        return self.federation_id == assignment.federation_id and self.base_model_digest in taken


class TrainingFolder:
    """`training/` in the device's home, or another folder there."""

    def __init__(self, home: Path, name: str = "training") -> None:
        self._folder = home / name
        self.base, self.trained = self._folder / "base.safetensors", self._folder / "trained.safetensors"
        self._facts = self._folder / "training.json"

    def begin(self) -> None:
        """Make room for another training; what was kept is dropped."""
        self.drop()
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def keep(self, assignment: Assignment, sample_count: int, metrics: Mapping[str, float]) -> KeptTraining:
        """Keep what was trained for a round, whose models are in the folder."""
        kept = KeptTraining(
            assignment.federation_id,
            assignment.base_version,
            assignment.base_model_digest,
            sample_count,
            dict(metrics),
        )
        facts = vars(kept) | {
            "federation_id": kept.federation_id.hex(),
            "base_model_digest": kept.base_model_digest.hex(),
        }
        write_private_file(self._facts, json.dumps(facts).encode())
        return kept

    def kept(self) -> KeptTraining | None:
        """Return the training that has no receipt yet; one whose record is damaged is as good as none."""
        if not self._facts.exists():
            return None
        try:
            return _from_json(json.loads(self._facts.read_text()))
        except (ValueError, TypeError, KeyError):
            return None

    def drop(self) -> None:
        """Forget the training: it has its receipt, or another takes its place."""
        for path in (self._facts, self.trained, self.base):
            path.unlink(missing_ok=True)
        if self._folder.exists():
            sync_folder(self._folder)


def _from_json(facts: Any) -> KeptTraining:
    if not isinstance(facts, dict) or set(facts) != _MEMBERS:
        raise ValueError("another record")
    return KeptTraining(
        bytes.fromhex(facts["federation_id"]),
        int(facts["base_version"]),
        bytes.fromhex(facts["base_model_digest"]),
        int(facts["sample_count"]),
        {str(name): float(value) for name, value in facts["metrics"].items()},
    )
