"""The aggregation policy: what the enclave demands of a round and how it makes one model of its updates.

The policy enters the evidence by its digest, so an operator cannot weaken it unseen: a changed
policy is another enclave. This module holds its form; what each part computes, which parameters it
takes and how many attackers it stands is in `enclave.core.rules`, which is measured with it.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from qflare_protocol.encoding import digest, encode
from qflare_protocol.errors import Refusal
from qflare_protocol.fields import exact_bytes, exact_map, finite_number, short_text, whole_number
from qflare_protocol.ranges import MAX_RANGES
from qflare_protocol.sealing_tier import sealing_tier
from qflare_protocol.staleness import LARGEST_EXPONENT, MAX_STALENESS, USUAL_EXPONENT
from qflare_protocol.update_forms import DELTA, update_form

SMALLEST_MINIMUM = 3
MAX_STAGES = 8
MAX_PARAMETERS = 256
MAX_PARAMETER_NAME = 256
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
_LARGEST_PARAMETER = 1e12
_DEVICE_ID_BYTES = 16


@dataclass(frozen=True)
class Stage:
    """One part of the pipeline by its name, with its parameters; what is not given has the part's default.

    Raises `Refusal("policy-refused")` for values out of form.
    """

    name: str
    parameters: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        short_text(self.name, 40, what="name of a stage", code=_CODE)
        if not isinstance(self.parameters, Mapping) or len(self.parameters) > MAX_STAGES:
            raise Refusal(_CODE, f"The parameters of {self.name} must be a map of at most {MAX_STAGES} numbers.")
        for name, value in self.parameters.items():
            short_text(name, 40, what=f"parameter of {self.name}", code=_CODE)
            finite_number(value, -_LARGEST_PARAMETER, _LARGEST_PARAMETER, what=f"{name} of {self.name}", code=_CODE)
        object.__setattr__(self, "parameters", dict(self.parameters))

    def __hash__(self) -> int:
        return hash((self.name, tuple(sorted(self.parameters.items()))))

    def to_map(self) -> dict[str, Any]:
        """Return the stage as a map for CBOR or JSON."""
        return asdict(self)

    @classmethod
    def from_map(cls, value: object) -> "Stage":
        """Read a stage strictly. Raises `Refusal("policy-refused")`."""
        return cls(**exact_map(value, frozenset({"name", "parameters"}), what="stage", code=_CODE))


NONE = Stage("none")
PLAIN_DELTA = Stage(DELTA)


@dataclass(frozen=True)
class AggregationPolicy:
    """What the enclave demands of a round. Raises `Refusal("policy-refused")` for values out of form.

    The default pipeline is the one with the best worst case in docs/benchmarks/attacks.md.

    - minimum_updates: fewest accepted updates that are ever aggregated, at least 3.
    - tolerated_fraction: the part of a round's updates that may come from attackers, 0 to below 0.5;
      of n updates, floor(tolerated_fraction · n). An enclave refuses a pipeline that stands fewer.
    - filters, pre_aggregation: stages in the order in which they run, at most 8 of each.
    - rule: the stage that makes one update of many.
    - history: β of the exponential average that is kept of each device's updates, 0 (none) to 0.999.
    - server_optimiser: what is done with the aggregate before it is added to the model, or "none".
    - noise: the noise of differential privacy, or "none".
    - root_device: the 16-byte id, in hex, of the device whose update is a reference for the filter
      `root-cosine` and enters no model; empty where there is none.
    - maximum_sample_count: largest sample count a device may claim, its cap of weight.
    - maximum_update_bytes: largest sealed update in bytes.
    - maximum_memory_bytes: address space of the sealed process in bytes, 512 MiB to 1 TiB.
    - required_tier: name of the sealing tier without which the enclave does not work, see `sealing_tier`.
    - required_protections: further names from `PROTECTIONS` without which it does not.
    - ranges: among how many sealed processes the model's columns are shared out, 1 to 16.
    - form: what every update of the federation is and how its values are written, see `update_forms`.
    - parameters: the tensors that updates are about, by name or, with a final "*", by prefix, sorted; empty: all.
    - maximum_staleness: how many versions old the base model of an update may be, 0 to 64.
    - staleness_exponent: a in (1 + staleness)^-a, by which a stale update counts for less, 0 to 4.
    """

    minimum_updates: int = SMALLEST_MINIMUM
    tolerated_fraction: float = 0.2
    filters: tuple[Stage, ...] = ()
    pre_aggregation: tuple[Stage, ...] = (Stage("median-clipping"), Stage("nnm"))
    rule: Stage = Stage("geometric-median")
    history: float = 0.0
    server_optimiser: Stage = Stage("fedavgm", {"momentum": 0.6})
    noise: Stage = NONE
    root_device: str = ""
    maximum_sample_count: int = 1_000_000
    maximum_update_bytes: int = 128 * _MIB
    maximum_memory_bytes: int = 4096 * _MIB
    required_tier: str = "none"
    required_protections: tuple[str, ...] = ()
    ranges: int = 1
    form: Stage = PLAIN_DELTA
    parameters: tuple[str, ...] = ()
    maximum_staleness: int = 0
    staleness_exponent: float = USUAL_EXPONENT

    def __post_init__(self) -> None:
        whole_number(self.minimum_updates, SMALLEST_MINIMUM, 1_000_000, what="minimum_updates", code=_CODE)
        whole_number(self.maximum_sample_count, 1, 10**9, what="maximum_sample_count", code=_CODE)
        whole_number(self.maximum_update_bytes, 4096, 1 << 36, what="maximum_update_bytes", code=_CODE)
        whole_number(self.maximum_memory_bytes, 512 * _MIB, 1 << 40, what="maximum_memory_bytes", code=_CODE)
        whole_number(self.ranges, 1, MAX_RANGES, what="ranges", code=_CODE)
        fraction = finite_number(self.tolerated_fraction, 0.0, 0.499, what="tolerated_fraction", code=_CODE)
        history = finite_number(self.history, 0.0, 0.999, what="history", code=_CODE)
        object.__setattr__(self, "tolerated_fraction", fraction)  # a float always: 0 and 0.0 are one policy
        object.__setattr__(self, "history", history)
        self._check_staleness()
        for name in ("filters", "pre_aggregation"):
            _check_stages(name, getattr(self, name))
        for name in _STAGES:
            if not isinstance(getattr(self, name), Stage):
                raise Refusal(_CODE, f"{name} must be a stage: a name with parameters.")
        update_form(self.form.name, self.form.parameters)
        _check_parameters(self.parameters)
        _check_root_device(self.root_device)
        sealing_tier(self.required_tier, code=_CODE)
        _check_protections(self.required_protections)

    def _check_staleness(self) -> None:
        whole_number(self.maximum_staleness, 0, MAX_STALENESS, what="maximum_staleness", code=_CODE)
        exponent = finite_number(self.staleness_exponent, 0.0, LARGEST_EXPONENT, what="staleness_exponent", code=_CODE)
        object.__setattr__(self, "staleness_exponent", exponent)

    def tolerated(self, updates: int) -> int:
        """Return how many of that many updates may come from attackers."""
        return math.floor(self.tolerated_fraction * updates)

    @property
    def root_device_id(self) -> bytes | None:
        """The root device's id as bytes, where there is one."""
        return bytes.fromhex(self.root_device) or None

    def to_map(self) -> dict[str, Any]:
        """Return the policy as a map for CBOR or JSON; what `NAMED_WHERE_OTHER` lists is not named at its default."""
        members = asdict(self) | {
            "filters": [stage.to_map() for stage in self.filters],
            "pre_aggregation": [stage.to_map() for stage in self.pre_aggregation],
            "required_protections": list(self.required_protections),
            "parameters": list(self.parameters),
        }
        for name, default in NAMED_WHERE_OTHER.items():
            if getattr(self, name) == default:
                del members[name]
        return members

    @classmethod
    def from_map(cls, value: object) -> "AggregationPolicy":
        """Read a policy strictly. Raises `Refusal("policy-refused")`."""
        left_out = frozenset(NAMED_WHERE_OTHER) - (frozenset(value) if isinstance(value, dict) else frozenset())
        members = dict(exact_map(value, _MEMBERS - left_out, what="aggregation policy", code=_CODE))
        for name in ("filters", "pre_aggregation"):
            members[name] = tuple(Stage.from_map(stage) for stage in _list(members[name], name))
        for name in _STAGES - left_out:
            members[name] = Stage.from_map(members[name])
        members["required_protections"] = tuple(_list(members["required_protections"], "required_protections"))
        if "parameters" in members:
            members["parameters"] = tuple(_list(members["parameters"], "parameters"))
        policy = cls(**members)
        if again := [name for name in NAMED_WHERE_OTHER.keys() - left_out if name not in policy.to_map()]:
            raise Refusal(_CODE, f"{again[0]} is named where it is not the default.")
        return policy

    def digest(self) -> bytes:
        """Return the policy's 64-byte SHA3-512 digest."""
        return digest("aggregation policy", encode(self.to_map()))


NAMED_WHERE_OTHER: Mapping[str, Any] = {
    "ranges": 1,
    "form": PLAIN_DELTA,
    "parameters": (),
    "maximum_staleness": 0,
    "staleness_exponent": USUAL_EXPONENT,
}
"""The members that a policy's map holds only where they are not these."""

_STAGES = frozenset({"rule", "server_optimiser", "noise", "form"})
_MEMBERS = frozenset(member.name for member in fields(AggregationPolicy))


def _list(value: object, name: str) -> list[Any] | tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise Refusal(_CODE, f"{name} must be a list.")
    return value


def _check_stages(name: str, stages: object) -> None:
    if not isinstance(stages, tuple) or len(stages) > MAX_STAGES or not all(isinstance(one, Stage) for one in stages):
        raise Refusal(_CODE, f"{name} must be at most {MAX_STAGES} stages.")


def _check_parameters(names: object) -> None:
    if not isinstance(names, tuple) or len(names) > MAX_PARAMETERS:
        raise Refusal(_CODE, f"parameters must be at most {MAX_PARAMETERS} names.")
    for name in names:
        short_text(name, MAX_PARAMETER_NAME, what="name of parameters", code=_CODE)
    if list(names) != sorted(set(names)):
        raise Refusal(_CODE, "parameters must be sorted names, each there once.")


def _check_root_device(text: object) -> None:
    if text == "":
        return
    try:
        exact_bytes(bytes.fromhex(str(text)), _DEVICE_ID_BYTES, what="root_device", code=_CODE)
    except ValueError as error:
        raise Refusal(_CODE, "root_device must be a device id of 16 bytes in hex, or empty.") from error
    if text != bytes.fromhex(str(text)).hex():
        raise Refusal(_CODE, "root_device must be in lower-case hex without separators.")


def _check_protections(names: tuple[str, ...]) -> None:
    unknown = [name for name in names if name not in PROTECTIONS]
    if unknown or list(names) != sorted(set(names)):
        raise Refusal(_CODE, f"required_protections must be sorted names out of {', '.join(PROTECTIONS)}.")
