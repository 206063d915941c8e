"""Sealing tiers: what a sealed process has given up, in one word that a federation can demand.

A tier is a set of protections (docs/protocol.md, section 10.1); each contains the one before it. The
tier of a process is the highest whose protections all hold.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from qflare_protocol.errors import Refusal


@dataclass(frozen=True)
class SealingTier:
    """A tier's name, the protections it is made of, and one sentence on what it leaves open."""

    name: str
    protections: frozenset[str]
    not_protected_against: str


_PROCESS = frozenset(
    {
        "resource-limits",
        "unprivileged-uid",
        "no-capabilities",
        "parent-death-signal",
        "not-dumpable",
        "no-new-privileges",
        "closed-descriptors",
        "seccomp",
    }
)
_SEPARATE = _PROCESS | {"own-uid", "landlock"}
_FULL = _SEPARATE | {"namespaces"}

NONE = SealingTier("none", frozenset(), "Code that takes the process over can do whatever its account may do.")
PROCESS = SealingTier(
    "process",
    _PROCESS,
    "Whoever takes over the worker, which may have the same account, reads the round's sealing key from the enclave "
    "host's folder; the system call filter alone keeps the sealed process from files and network.",
)
SEPARATE = SealingTier(
    "separate",
    _SEPARATE,
    "The process shares network, mounts and IPC with its host or container, behind the system call filter and "
    "Landlock; root there reads its memory.",
)
FULL = SealingTier(
    "full", _FULL, "Root on the enclave host, its kernel and its hardware can still read the process's memory."
)
SEALING_TIERS = (NONE, PROCESS, SEPARATE, FULL)
"""From the lowest to the highest."""

_BY_NAME = {tier.name: tier for tier in SEALING_TIERS}


def sealing_tier(name: object, *, code: str = "policy-refused") -> SealingTier:
    """Return the tier of that name. Raises `Refusal(code)` when there is none."""
    if not isinstance(name, str) or name not in _BY_NAME:
        raise Refusal(code, f"A sealing tier is one of {', '.join(_BY_NAME)}.")
    return _BY_NAME[name]


def tier_of(held: Mapping[str, bool]) -> SealingTier:
    """Return the highest tier whose protections are all held."""
    return [tier for tier in SEALING_TIERS if all(held.get(name, False) for name in tier.protections)][-1]


def missing_protections(held: Mapping[str, bool], tier: str, further: Iterable[str] = ()) -> list[str]:
    """Return, sorted, what the named tier and the further protections demand and is not held."""
    demanded = sealing_tier(tier).protections | set(further)
    return sorted(name for name in demanded if not held.get(name, False))
