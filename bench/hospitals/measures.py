"""How good a model is, from its probabilities of illness."""

from bench.attacks.training import Vector


def accuracy(found: Vector, labels: Vector) -> float:
    """Return the share that is rightly called ill or healthy."""
    return float(((found > 0.5) == (labels > 0.5)).mean())


def area_under_curve(found: Vector, labels: Vector) -> float:
    """Return the probability that an ill patient scores higher than a healthy one; ties count half."""
    ill, healthy = found[labels > 0.5], found[labels <= 0.5]
    return float((ill[:, None] > healthy).mean() + 0.5 * (ill[:, None] == healthy).mean())
