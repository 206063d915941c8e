"""The manifest: what a device says, and signs, about the update it has sealed for one round."""

from dataclasses import asdict, astuple, dataclass, field, fields
from typing import Any

from qflare_protocol.cose import Signer, Verifier, sign1, unverified_payload, verify1
from qflare_protocol.encoding import digest
from qflare_protocol.errors import Refusal
from qflare_protocol.fields import exact_bytes, exact_map, finite_number, short_text, whole_number
from qflare_protocol.ranges import MAX_RANGES
from qflare_protocol.update_forms import DELTA, FORMS

PURPOSE = "update manifest"
MAX_BYTES = 1 << 16
MAX_METRICS = 32
MAX_METRIC_NAME = 64
MAX_SAMPLE_COUNT = 10**9

_WHAT = "update manifest"
_BYTE_FIELDS = {
    "round_id": 16,
    "federation_id": 16,
    "device_id": 16,
    "base_model_digest": 32,
    "ciphertext_digest": 32,
    "enclave_key_id": 32,
}


@dataclass(frozen=True)
class UpdatePart:
    """What is sealed to one range's process: its 32-byte key id, and the part's size and BLAKE3 digest (32 bytes)."""

    enclave_key_id: bytes
    ciphertext_bytes: int
    ciphertext_digest: bytes

    def __post_init__(self) -> None:
        exact_bytes(self.enclave_key_id, 32, what=f"enclave_key_id of a part of the {_WHAT}")
        whole_number(self.ciphertext_bytes, 1, 1 << 40, what=f"ciphertext_bytes of a part of the {_WHAT}")
        exact_bytes(self.ciphertext_digest, 32, what=f"ciphertext_digest of a part of the {_WHAT}")


@dataclass(frozen=True)
class Manifest:
    """One device's update to one round.

    Ids are 16-byte UUIDs. `base_model_digest` and `ciphertext_digest` are BLAKE3 (32 bytes),
    `ciphertext_bytes` is the sealed update's size, `enclave_key_id` names the round key it is sealed
    to, and `form` is that of its policy, see `update_forms`. Where several processes
    share the model, `parts` says what is sealed to each, in order; `ciphertext_digest` and
    `ciphertext_bytes` are of all parts one after another, `enclave_key_id` is the first one's. An update
    that is sealed to one process has no parts.

    Raises `Refusal("sample-count-refused")` for a sample count that is not a whole number from 1,
    and `Refusal("malformed-message")` for every other member out of form.
    """

    round_id: bytes
    federation_id: bytes
    device_id: bytes
    base_model_digest: bytes
    sample_count: int
    ciphertext_digest: bytes
    ciphertext_bytes: int
    enclave_key_id: bytes
    metrics: dict[str, float] = field(default_factory=dict)
    form: str = DELTA
    parts: tuple[UpdatePart, ...] = ()

    def __post_init__(self) -> None:
        for name, length in _BYTE_FIELDS.items():
            exact_bytes(getattr(self, name), length, what=f"{name} of the {_WHAT}")
        whole_number(self.ciphertext_bytes, 1, 1 << 40, what=f"ciphertext_bytes of the {_WHAT}")
        whole_number(self.sample_count, 1, MAX_SAMPLE_COUNT, what="sample count", code="sample-count-refused")
        if self.form not in FORMS:
            raise Refusal("malformed-message", f"The form of an update is one of {', '.join(FORMS)}.")
        object.__setattr__(self, "metrics", checked_metrics(self.metrics))
        self._check_parts()

    def _check_parts(self) -> None:
        if not self.parts:
            return
        if not 2 <= len(self.parts) <= MAX_RANGES:
            raise Refusal("malformed-message", f"An update has 2 to {MAX_RANGES} parts, or none.")
        if sum(part.ciphertext_bytes for part in self.parts) != self.ciphertext_bytes:
            raise Refusal("malformed-message", "The parts of an update are together as long as it is.")
        if self.parts[0].enclave_key_id != self.enclave_key_id:
            raise Refusal("malformed-message", "An update names the key of its first part.")

    @property
    def key_ids(self) -> tuple[bytes, ...]:
        """The ids of the enclave keys that the update is sealed to, in the order of their ranges."""
        return tuple(part.enclave_key_id for part in self.parts) or (self.enclave_key_id,)

    def to_map(self) -> dict[str, Any]:
        """Return the map that is signed."""
        members = asdict(self)
        del members["parts"]
        if self.parts:
            members["parts"] = [list(astuple(part)) for part in self.parts]
        return members

    @classmethod
    def from_map(cls, value: object) -> "Manifest":
        """Read a manifest strictly; raises as the class does."""
        if not isinstance(value, dict) or "parts" not in value:
            return cls(**exact_map(value, _MEMBERS - {"parts"}, what=_WHAT))
        members = exact_map(value, _MEMBERS, what=_WHAT)
        return cls(**(dict(members) | {"parts": _parts(members["parts"])}))


_MEMBERS = frozenset(member.name for member in fields(Manifest))


def _parts(rows: object) -> tuple[UpdatePart, ...]:
    if not isinstance(rows, list) or not rows or not all(isinstance(row, list) and len(row) == 3 for row in rows):
        raise Refusal("malformed-message", "The parts of an update must be a list of (key id, bytes, digest).")
    return tuple(UpdatePart(*row) for row in rows)


def sign_manifest(manifest: Manifest, signer: Signer) -> bytes:
    """Return the manifest signed with the device's key (COSE_Sign1)."""
    return sign1(signer, manifest.to_map(), purpose=PURPOSE)


def verify_manifest(signed: bytes, verifier: Verifier) -> Manifest:
    """Return the manifest that this device key signed.

    Raises `Refusal("invalid-signature")`, and what `Manifest` raises.
    """
    return Manifest.from_map(verify1(verifier, signed, purpose=PURPOSE, maximum_bytes=MAX_BYTES))


def unverified_manifest(signed: bytes) -> Manifest:
    """Return what a manifest claims before its signer is known, only to look the signer up."""
    return Manifest.from_map(unverified_payload(signed, purpose=PURPOSE, maximum_bytes=MAX_BYTES))


def manifest_digest(signed: bytes) -> bytes:
    """Return the 64-byte digest by which a signed manifest is named in results and in the log."""
    return digest("signed update manifest", signed)


def checked_metrics(metrics: object) -> dict[str, float]:
    """Return metrics that are in form: at most 32 finite numbers. Raises `Refusal("malformed-message")`."""
    if not isinstance(metrics, dict) or len(metrics) > MAX_METRICS:
        raise Refusal("malformed-message", f"The metrics must be a map of at most {MAX_METRICS} numbers.")
    return {
        short_text(name, MAX_METRIC_NAME, what="metric name"): finite_number(value, -1e12, 1e12, what="metric")
        for name, value in metrics.items()
    }
