"""The grid of a model's columns, and the ranges in which sealed processes share them out.

A model's weights, in the order of its container's data, are columns. Sums over columns are made by
blocks of 2^14 columns and by segments of whole blocks, both of one grid that the model's size alone
fixes; a range is some whole segments. So the partial sums are the same, and summed in the same order,
however many processes share the model.
"""

from dataclasses import dataclass

BLOCK_COLUMNS = 1 << 14
MAX_SEGMENTS = 16
SMALLEST_SEGMENT_BLOCKS = 16
MAX_RANGES = MAX_SEGMENTS


@dataclass(frozen=True)
class Columns:
    """The columns from `start` to before `stop` of a model that has `size`."""

    start: int
    stop: int
    size: int

    @property
    def width(self) -> int:
        """How many columns there are."""
        return self.stop - self.start


def segment_columns(size: int) -> int:
    """Return how many columns a segment of a model of that size has: a multiple of the grid, 16 segments at most."""
    blocks = -(-size // BLOCK_COLUMNS)
    return max(SMALLEST_SEGMENT_BLOCKS, -(-blocks // MAX_SEGMENTS)) * BLOCK_COLUMNS


def range_bounds(size: int, ranges: int) -> tuple[Columns, ...]:
    """Return the ranges of a model of that size, in order and as even as segments allow.

    There are as many as asked for, or one for each segment where there are fewer segments.
    """
    segment = segment_columns(size)
    segments = max(1, -(-size // segment))
    count = min(ranges, segments)
    edges = [min(size, segment * (segments * index // count)) for index in range(count + 1)]
    return tuple(Columns(start, stop, size) for start, stop in zip(edges, edges[1:], strict=False))
