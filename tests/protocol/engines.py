"""Every engine that has an algorithm on this host, whether or not it is the one that would serve."""

from collections.abc import Iterable, Iterator

import pytest

from qflare_protocol.pqc import registry
from qflare_protocol.pqc.interface import EngineUnavailable, KemAlgorithm, SignatureAlgorithm


def kem_engines(names: Iterable[str] = registry.KEM_NAMES) -> list[tuple[str, str]]:
    """Return (engine, algorithm) of every KEM that an engine here has."""
    return [pair for pair in _candidates(names) if _has(registry.kem_by, *pair)]


def signature_engines(names: Iterable[str] = registry.SIGNATURE_NAMES) -> list[tuple[str, str]]:
    """Return (engine, algorithm) of every signature scheme that an engine here has."""
    return [pair for pair in _candidates(names) if _has(registry.signature_by, *pair)]


def kem_by(engine: str, name: str) -> KemAlgorithm:
    """Return the KEM by that engine, or skip where it is not here."""
    try:
        return registry.kem_by(engine, name)
    except EngineUnavailable as reason:
        pytest.skip(str(reason))


def signature_by(engine: str, name: str) -> SignatureAlgorithm:
    """Return the signature scheme by that engine, or skip where it is not here."""
    try:
        return registry.signature_by(engine, name)
    except EngineUnavailable as reason:
        pytest.skip(str(reason))


def _candidates(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    return ((engine, name) for name in names for engine in registry.CANDIDATES[name])


def _has(serve, engine: str, name: str) -> bool:
    try:
        serve(engine, name)
    except EngineUnavailable:
        return False
    return True
