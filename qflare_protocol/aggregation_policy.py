"""The measured policy: what an enclave will aggregate, and what it refuses to.

The policy's digest stands in the evidence that every device checks before it seals an update, and
in the derivation of the key that wraps the round's private keys: a changed policy is another
enclave.
"""

from dataclasses import asdict, dataclass, fields
from typing import Any

from qflare_protocol.encoding import digest, encode
from qflare_protocol.errors import Refusal
from qflare_protocol.fields import exact_map, finite_number, whole_number

SMALLEST_MINIMUM = 3
RULES = ("weighted-mean",)
PROTECTIONS = (
    "resource-limits",
    "namespaces",
    "unprivileged-uid",
    "own-uid",
    "no-capabilities",
    "parent-death-signal",
    "not-dumpable",
    "no-new-privileges",
    "landlock",
    "closed-descriptors",
    "seccomp",
)
"""The names of what a sealed process can have; see `enclave.core.sealing`."""

_CODE = "policy-refused"
_MIB = 1 << 20


@dataclass(frozen=True)
class AggregationPolicy:
    """What the enclave demands of a round. Raises `Refusal("policy-refused")` for values out of range.

    - minimum_updates: fewest accepted updates that are ever aggregated, at least 3.
    - rule: "weighted-mean", by sample counts, of the accepted updates.
    - maximum_norm_ratio: largest norm as a multiple of the median norm, 1 to 1000.
    - minimum_cosine: smallest cosine to the consensus of the others, -1 to 0.99.
    - maximum_sample_count: largest sample count a device may claim, its cap of weight.
    - maximum_update_bytes: largest sealed update in bytes.
    - maximum_memory_bytes: address space of the sealed process in bytes, 512 MiB to 1 TiB.
    - required_protections: names from `PROTECTIONS` without which the enclave does not work.
    """

    minimum_updates: int = SMALLEST_MINIMUM
    rule: str = "weighted-mean"
    maximum_norm_ratio: float = 3.0
    minimum_cosine: float = 0.0
    maximum_sample_count: int = 1_000_000
    maximum_update_bytes: int = 128 * _MIB
    maximum_memory_bytes: int = 4096 * _MIB
    required_protections: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        whole_number(self.minimum_updates, SMALLEST_MINIMUM, 1_000_000, what="minimum_updates", code=_CODE)
        whole_number(self.maximum_sample_count, 1, 10**9, what="maximum_sample_count", code=_CODE)
        whole_number(self.maximum_update_bytes, 4096, 1 << 36, what="maximum_update_bytes", code=_CODE)
        whole_number(self.maximum_memory_bytes, 512 * _MIB, 1 << 40, what="maximum_memory_bytes", code=_CODE)
        ratio = finite_number(self.maximum_norm_ratio, 1.0, 1000.0, what="maximum_norm_ratio", code=_CODE)
        cosine = finite_number(self.minimum_cosine, -1.0, 0.99, what="minimum_cosine", code=_CODE)
        object.__setattr__(self, "maximum_norm_ratio", ratio)  # a float always: 3 and 3.0 are one policy
        object.__setattr__(self, "minimum_cosine", cosine)
        if self.rule not in RULES:
            raise Refusal(_CODE, f"The rule must be one of {', '.join(RULES)}.")
        _check_protections(self.required_protections)

    def to_map(self) -> dict[str, Any]:
        """Return the policy as a map for CBOR or JSON."""
        return asdict(self) | {"required_protections": list(self.required_protections)}

    @classmethod
    def from_map(cls, value: object) -> "AggregationPolicy":
        """Read a policy strictly. Raises `Refusal("policy-refused")`."""
        members = dict(exact_map(value, _MEMBERS, what="aggregation policy", code=_CODE))
        names = members.pop("required_protections")
        if not isinstance(names, list | tuple):
            raise Refusal(_CODE, "required_protections must be a list of names.")
        return cls(**members, required_protections=tuple(names))

    def digest(self) -> bytes:
        """Return the policy's 64-byte SHA3-512 digest."""
        return digest("aggregation policy", encode(self.to_map()))


_MEMBERS = frozenset(field.name for field in fields(AggregationPolicy))


def _check_protections(names: tuple[str, ...]) -> None:
    unknown = [name for name in names if name not in PROTECTIONS]
    if unknown or list(names) != sorted(set(names)):
        raise Refusal(_CODE, f"required_protections must be sorted names out of {', '.join(PROTECTIONS)}.")
