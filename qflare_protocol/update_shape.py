"""What an update to a certain model looks like in a certain round: its columns, its container, its size.

The columns of an update are the model's that its policy chooses, in the model's order: those of all tensors or of
some, and of these all or, with a random mask, the round's. What is not chosen stays as it is in the base model.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qflare_protocol.aggregation_policy import AggregationPolicy
from qflare_protocol.errors import Refusal
from qflare_protocol.random_mask import RandomMask, masked_size
from qflare_protocol.ranges import BLOCK_COLUMNS, Columns, range_bounds
from qflare_protocol.tensors import Tensor, TensorLayout, encode_header
from qflare_protocol.update import sealed_update_size
from qflare_protocol.update_forms import UpdateForm, update_form

PREFIX_MARK = "*"
MASKED = "values"
"""The name of the one tensor of an update under a random mask."""


@dataclass(frozen=True)
class Piece:
    """Some columns of the model, side by side, and which of them the update is about.

    `chosen` indexes a (width,) array of the piece's columns and chooses `count` of them.
    """

    start: int
    width: int
    count: int
    chosen: slice | NDArray[np.intp]


@dataclass(frozen=True)
class UpdateShape:
    """An update to a model of that layout; make it with `of`."""

    model: TensorLayout
    chosen: TensorLayout
    form: UpdateForm
    mask: RandomMask | None = None

    @classmethod
    def of(
        cls, policy: AggregationPolicy, model: TensorLayout, *, federation_id: bytes, round_id: bytes
    ) -> "UpdateShape":
        """Return the shape of one round's updates; ids of 16 bytes.

        Raises `Refusal("policy-refused")` where the policy names parameters that the model does not have.
        """
        form = update_form(policy.form.name, policy.form.parameters)
        mask = None
        if form.mask_fraction is not None:
            place = {"federation_id": federation_id, "round_id": round_id, "policy_digest": policy.digest()}
            mask = RandomMask.of_round(form.mask_fraction, **place)
        return cls(model, chosen_tensors(policy, model), form, mask)

    @property
    def everything(self) -> bool:
        """Whether the update is about all columns of the model."""
        return self.mask is None and self.chosen == self.model

    @property
    def size(self) -> int:
        """How many columns the update has."""
        return self.chosen.size if self.mask is None else masked_size(self.chosen.size, self.mask.fraction)

    @property
    def container(self) -> TensorLayout:
        """The layout of the container in which an update is sealed to one process."""
        values = self.chosen if self.mask is None else TensorLayout((Tensor(MASKED, "F32", (self.size,)),))
        return self.form.coding.layout(values)

    def sealed_bytes(self, ranges: int) -> tuple[int, ...]:
        """Return the exact size of what is sealed to each of the processes under a policy of that many ranges."""
        bounds = range_bounds(self.size, ranges)
        header = len(encode_header(self.container)) if len(bounds) == 1 else 0
        return tuple(sealed_update_size(header + self.form.coding.coded_bytes(one.width)) for one in bounds)

    def bounds(self, ranges: int) -> tuple[Columns, ...]:
        """Return the ranges of the update's columns under a policy of that many."""
        return range_bounds(self.size, ranges)

    def pieces(self) -> Iterator[Piece]:
        """Yield all of the model in pieces of at most a block of the grid; none lies across tensors chosen and not."""
        names = {tensor.name for tensor in self.chosen.tensors}
        start, column = 0, 0
        for tensor in self.model.tensors:
            chosen, end = tensor.name in names, start + tensor.size
            while start < end:
                width = min(end - start, BLOCK_COLUMNS - (column % BLOCK_COLUMNS if chosen else 0))
                yield self._piece(start, width, column) if chosen else Piece(start, width, 0, slice(0, 0))
                start, column = start + width, column + (width if chosen else 0)

    def _piece(self, start: int, width: int, column: int) -> Piece:
        if self.mask is None:
            return Piece(start, width, width, slice(None))
        block, offset = divmod(column, BLOCK_COLUMNS)
        drawn = self.mask.chosen(block, min(BLOCK_COLUMNS, self.chosen.size - block * BLOCK_COLUMNS)) - offset
        inside = drawn[(drawn >= 0) & (drawn < width)]
        return Piece(start, width, len(inside), inside)


def chosen_tensors(policy: AggregationPolicy, model: TensorLayout) -> TensorLayout:
    """Return the tensors that updates under this policy are about, in the model's order.

    Raises `Refusal("policy-refused")` where a name or a prefix of the policy finds no tensor, or only empty ones.
    """
    if not policy.parameters:
        return model
    found: set[str] = set()
    for wanted in policy.parameters:
        matching = {tensor.name for tensor in model.tensors if _matches(wanted, tensor.name)}
        if not matching:
            raise Refusal("policy-refused", f"The model has no parameters {wanted!r}, which the policy names.")
        found |= matching
    chosen = TensorLayout(tuple(tensor for tensor in model.tensors if tensor.name in found))
    if chosen.size == 0:
        raise Refusal("policy-refused", "The parameters that the policy names hold no weights.")
    return chosen


def update_columns(policy: AggregationPolicy, model: TensorLayout) -> int:
    """Return how many columns an update to that model has, in whichever round. Raises `Refusal("policy-refused")`."""
    nowhere: dict[str, Any] = {"federation_id": bytes(16), "round_id": bytes(16)}
    return UpdateShape.of(policy, model, **nowhere).size


def _matches(wanted: str, name: str) -> bool:
    return name.startswith(wanted[:-1]) if wanted.endswith(PREFIX_MARK) else name == wanted
