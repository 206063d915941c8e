"""What numbers on an axis count, and how they are written."""

import math
from dataclasses import dataclass

_HUGE, _SMALL, _TINY = 1e12, 1e-4, 1e-300
_MOST_DECIMALS = 6


@dataclass(frozen=True)
class Unit:
    """A quantity with the sizes it is told in, the smallest first: each a factor and what stands behind the number.

    A size is used from `reach` times its factor on: 1.5 keeps 70 s from being called 1.167 min.
    """

    sizes: tuple[tuple[float, str], ...]
    reach: float = 1.0

    def size_for(self, largest: float) -> tuple[float, str]:
        """Return factor and suffix of the greatest size that `largest` reaches, or of the smallest size."""
        reached = [size for size in self.sizes if abs(largest) >= size[0] * self.reach]
        return reached[-1] if reached else self.sizes[0]

    def words(self, value: float, largest: float | None = None, decimals: int | None = None) -> str:
        """Return a value in words, in the size that suits `largest`, or else the value itself; 0 has no unit."""
        factor, suffix = self.size_for(value if largest is None else largest)
        return f"{_number(value / factor, decimals)}{suffix}" if value else "0"

    def decimals(self, step: float, largest: float) -> int:
        """Return how many decimals tell values from each other that lie `step` apart."""
        factor, _ = self.size_for(largest)
        return max(0, -math.floor(math.log10(step / factor) + 1e-9)) if step / factor > _TINY else 0


def _number(value: float, decimals: int | None) -> str:
    size = abs(value)
    if size >= _HUGE or size < _SMALL or (decimals or 0) > _MOST_DECIMALS:
        return f"{value:.3g}"
    if decimals is not None:
        return f"{value:.{decimals}f}"
    return f"{value:.4g}" if size < 1e4 else f"{value:.0f}"


PLAIN = Unit(((1.0, ""),))
COUNT = Unit(((1.0, ""), (1e3, " k"), (1e6, " M"), (1e9, " G")))
PERCENT = Unit(((0.01, " %"),))
BYTES = Unit(((1.0, " B"), (2.0**10, " KiB"), (2.0**20, " MiB"), (2.0**30, " GiB"), (2.0**40, " TiB")))
SECONDS = Unit(((1e-3, " ms"), (1.0, " s"), (60.0, " min"), (3600.0, " h")), reach=1.5)
