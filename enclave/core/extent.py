"""The part of a round's model that one sealed process works on: all of it, or one of several ranges."""

from collections.abc import Iterator
from dataclasses import dataclass

from qflare_protocol.errors import Refusal
from qflare_protocol.ranges import Columns, range_bounds
from qflare_protocol.tensors import TensorLayout


@dataclass(frozen=True)
class Extent:
    """Range number `index` of `count`, of a model of that layout."""

    layout: TensorLayout
    index: int
    count: int
    columns: Columns

    @classmethod
    def of(cls, layout: TensorLayout, index: int, count: int, ranges: int) -> "Extent":
        """Return a range of a model that a policy shares out among `ranges` processes.

        Raises `Refusal("policy-refused")` where the model has not `count` ranges under it.
        """
        bounds = range_bounds(layout.size, ranges)
        if len(bounds) != count or not 0 <= index < count:
            raise Refusal("policy-refused", f"A model of that size has {len(bounds)} ranges under the policy.")
        return cls(layout, index, count, bounds[index])

    @property
    def whole(self) -> bool:
        """Whether it is all of the model."""
        return self.count == 1

    def siblings(self, ranges: int) -> Iterator["Extent"]:
        """Yield all ranges of the model, in order."""
        for index in range(self.count):
            yield Extent.of(self.layout, index, self.count, ranges)

    def name(self, output: str) -> str:
        """Return the name under which an output of this range leaves: its own where the range is all there is."""
        return output if self.whole else f"{output}@{self.index}"
