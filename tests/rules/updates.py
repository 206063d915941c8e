"""Updates for the tests of rules: honest, clustered, and with attackers as the papers describe them."""

from functools import lru_cache

import numpy as np

COLUMNS = 17_000
KINDS = ("honest", "scattered", "clustered", "sign-flip", "huge", "little-is-enough", "identical-attackers")


def updates_of(kind, count, attackers, *, columns=COLUMNS, seed=7):
    """Return (count, columns) float32 updates; the first `attackers` are those of the named kind, if it has any."""
    return _made(kind, count, attackers, columns, seed).copy()


@lru_cache(maxsize=32)
def _made(kind, count, attackers, columns, seed):
    generator = np.random.default_rng(seed)
    common = generator.normal(size=columns)
    rows = common + generator.normal(size=(count, columns))
    honest = rows[attackers:]
    if kind == "scattered":
        rows = generator.normal(size=(count, columns)) * generator.uniform(0.1, 3.0, size=(count, 1))
    elif kind == "clustered":
        rows = 10 * common + 1e-3 * generator.normal(size=(count, columns))
    elif kind == "sign-flip":
        rows[:attackers] *= -3.0
    elif kind == "huge":
        rows[:attackers] *= 1e6
    elif kind == "little-is-enough":
        rows[:attackers] = honest.mean(axis=0) - 1.2 * honest.std(axis=0)
    elif kind == "identical-attackers":
        rows[:attackers] = honest[0]
    return rows.astype(np.float32)
