"""The manifest: what a device says, and signs, about the update it has sealed for one round."""

from dataclasses import asdict, dataclass, field, fields
from typing import Any

from qflare_protocol.cose import Signer, Verifier, sign1, unverified_payload, verify1
from qflare_protocol.encoding import digest
from qflare_protocol.errors import Refusal
from qflare_protocol.fields import exact_bytes, exact_map, finite_number, short_text, whole_number

PURPOSE = "update manifest"
FORM = "delta"
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
class Manifest:
    """One device's update to one round.

    Ids are 16-byte UUIDs. `base_model_digest` and `ciphertext_digest` are BLAKE3 (32 bytes),
    `ciphertext_bytes` is the sealed update's size, `enclave_key_id` names the round key it is sealed
    to, and `form` is "delta": the tensors are new weights minus base weights.

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
    form: str = FORM

    def __post_init__(self) -> None:
        for name, length in _BYTE_FIELDS.items():
            exact_bytes(getattr(self, name), length, what=f"{name} of the {_WHAT}")
        whole_number(self.ciphertext_bytes, 1, 1 << 40, what=f"ciphertext_bytes of the {_WHAT}")
        whole_number(self.sample_count, 1, MAX_SAMPLE_COUNT, what="sample count", code="sample-count-refused")
        if self.form != FORM:
            raise Refusal("malformed-message", f"The form of an update is {FORM!r}.")
        object.__setattr__(self, "metrics", _checked_metrics(self.metrics))

    def to_map(self) -> dict[str, Any]:
        """Return the map that is signed."""
        return asdict(self)

    @classmethod
    def from_map(cls, value: object) -> "Manifest":
        """Read a manifest strictly; raises as the class does."""
        return cls(**exact_map(value, _MEMBERS, what=_WHAT))


_MEMBERS = frozenset(member.name for member in fields(Manifest))


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


def _checked_metrics(metrics: object) -> dict[str, float]:
    if not isinstance(metrics, dict) or len(metrics) > MAX_METRICS:
        raise Refusal("malformed-message", f"The metrics must be a map of at most {MAX_METRICS} numbers.")
    return {
        short_text(name, MAX_METRIC_NAME, what="metric name"): finite_number(value, -1e12, 1e12, what="metric")
        for name, value in metrics.items()
    }
