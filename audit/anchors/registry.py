"""The anchors that `QFLARE_ANCHORS` names: a JSON list of objects with `name`, `kind` and the kind's settings."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.conf import settings

from audit.anchor_settings import KINDS, checked_anchors
from audit.anchors.append_only_file import AppendOnlyFile
from audit.anchors.interface import Anchor
from audit.anchors.time_stamp import TimeStampAuthority
from audit.anchors.witness import Witness

_MAKERS: dict[str, Callable[..., Anchor]] = {
    "file": lambda path: AppendOnlyFile(Path(path)),
    "witness": Witness,
    "rfc3161": lambda url, roots: TimeStampAuthority(url, Path(roots)),
    "evm": lambda url, account: _evm_chain(url, account),
}


def _evm_chain(url: str, account: str) -> Anchor:
    """Return the anchor on a chain; web3 is an extra, and slow to import. Raises `ValueError` where it is absent."""
    try:
        from audit.anchors.evm import EvmChain
    except ImportError as error:
        raise ValueError("an anchor of the kind evm needs web3: pip install -r requirements-anchors.txt") from error
    return EvmChain(url, account)


@dataclass(frozen=True)
class AnchorPlan:
    """One anchor, and how often a checkpoint is laid down there."""

    name: str
    kind: str
    every_seconds: int
    anchor: Anchor


def configured_anchors(stated: Sequence[Mapping[str, Any]] | None = None) -> list[AnchorPlan]:
    """Return the anchors in use. Raises `ValueError` for settings out of form, in words."""
    plans = []
    for members in checked_anchors(settings.QFLARE_ANCHORS if stated is None else stated):
        own = {name: members[name] for name in KINDS[members["kind"]]}
        anchor = _MAKERS[members["kind"]](**own)
        plans.append(AnchorPlan(members["name"], members["kind"], members.get("every_seconds", 3600), anchor))
    return plans
