"""What a part of the pipeline is: a frozen object with a name, checked parameters and a breakdown point.

A part's class is registered by its name within its kind. Its parameters are its dataclass fields,
made with `parameter`, which gives their default and range.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any, ClassVar, Self, TypeVar

from qflare_protocol.aggregation_policy import Stage
from qflare_protocol.errors import Refusal
from qflare_protocol.fields import finite_number, whole_number

_CODE = "policy-refused"


class Need(Enum):
    """What a part has to see of the updates."""

    NOTHING = "nothing"
    GRAM = "Gram matrix"
    COORDINATES = "coordinates"


@dataclass(frozen=True)
class Part:
    """The base of all parts.

    - name: the standard term, by which a policy names it.
    - source: the paper whose definition it follows.
    - needs: what it has to see of the updates.
    """

    name: ClassVar[str]
    source: ClassVar[str]
    needs: ClassVar[Need]

    @classmethod
    def of(cls, stage: Stage) -> Self:
        """Make the part with the stage's parameters. Raises `Refusal("policy-refused")`."""
        ranges = {member.name: member.metadata for member in fields(cls)}
        unknown = sorted(set(stage.parameters) - set(ranges))
        if unknown:
            known = ", ".join(sorted(ranges)) or "none"
            raise Refusal(_CODE, f"{cls.name} has no parameter {unknown[0]}; it has {known}.")
        return cls(**{name: _checked(cls.name, name, value, ranges[name]) for name, value in stage.parameters.items()})

    def stage(self) -> Stage:
        """Return the part as a policy names it, with every parameter."""
        return Stage(self.name, {member.name: getattr(self, member.name) for member in fields(self)})

    def tolerates(self, rows: int) -> int:
        """Return the breakdown point: how many of that many rows may be arbitrary with the outcome still bounded."""
        raise NotImplementedError

    def rows_left(self, rows: int) -> int:
        """Return how many rows come out when that many go in."""
        return rows


def parameter(default: float, low: float, high: float) -> Any:
    """Declare a parameter with its default and the range it may lie in; a whole default makes it a whole number."""
    return field(default=default, metadata={"low": low, "high": high, "whole": isinstance(default, int)})


PartType = TypeVar("PartType", bound=Part)


class Registry(dict[str, type[PartType]]):
    """The parts of one kind, by name."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def register(self, part: type[PartType]) -> type[PartType]:
        """Add a part; used as a decorator."""
        self[part.name] = part
        return part

    def make(self, stage: Stage) -> PartType:
        """Make the part that a stage names. Raises `Refusal("policy-refused")`."""
        if stage.name not in self:
            raise Refusal(_CODE, f"There is no {self.kind} {stage.name!r}; there are {', '.join(sorted(self))}.")
        return self[stage.name].of(stage)


def minority(rows: int) -> int:
    """Return the largest number of attackers that is still fewer than half of the rows."""
    return max(0, (rows - 1) // 2)


def _checked(part: str, name: str, value: object, bounds: Mapping[str, Any]) -> float:
    what = f"{name} of {part}"
    if bounds["whole"]:
        return whole_number(value, bounds["low"], bounds["high"], what=what, code=_CODE)
    return finite_number(value, bounds["low"], bounds["high"], what=what, code=_CODE)
