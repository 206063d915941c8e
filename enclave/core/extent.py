"""The part of a round's model that one sealed process works on: all of it, or one of several ranges."""

from collections.abc import Iterator
from dataclasses import dataclass

from qflare_protocol.errors import Refusal
from qflare_protocol.ranges import Columns
from qflare_protocol.tensors import TensorLayout
from qflare_protocol.update_shape import UpdateShape


@dataclass(frozen=True)
class Extent:
    """Range number `index` of `count`, of the columns of a model that its updates of that shape are about."""

    shape: UpdateShape
    index: int
    count: int
    columns: Columns

    @classmethod
    def of(cls, shape: UpdateShape, index: int, count: int, ranges: int) -> "Extent":
        """Return a range of updates that a policy shares out among `ranges` processes.

        Raises `Refusal("policy-refused")` where the model has not `count` ranges under it.
        """
        bounds = shape.bounds(ranges)
        if len(bounds) != count or not 0 <= index < count:
            raise Refusal("policy-refused", f"A model of that size has {len(bounds)} ranges under the policy.")
        return cls(shape, index, count, bounds[index])

    @property
    def layout(self) -> TensorLayout:
        """The layout of the whole model."""
        return self.shape.model

    @property
    def whole(self) -> bool:
        """Whether it is all of the model."""
        return self.count == 1

    def siblings(self, ranges: int) -> Iterator["Extent"]:
        """Yield all ranges of the model, in order."""
        for index in range(self.count):
            yield Extent.of(self.shape, index, self.count, ranges)

    def name(self, output: str) -> str:
        """Return the name under which an output of this range leaves: its own where the range is all there is."""
        return output if self.whole else f"{output}@{self.index}"
