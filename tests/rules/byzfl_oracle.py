"""byzfl as an oracle: what another implementation of the same papers makes of the same updates.

Importing its package runs its own benchmark's imports, of a torchvision that does not match the CPU
build of torch here. Its rules need none of that: they are imported below a package of its name whose
own module is left out.
"""

import importlib
import importlib.util
import sys
from types import ModuleType

import pytest

HOW_TO_INSTALL = "byzfl is not installed: pip install --no-deps byzfl==0.0.11"


def aggregators() -> ModuleType:
    """Return byzfl's module of rules."""
    return _module("aggregators")


def pre_aggregators() -> ModuleType:
    """Return byzfl's module of pre-aggregations."""
    return _module("preaggregators")


def _module(name: str) -> ModuleType:
    found = importlib.util.find_spec("byzfl") if "byzfl" not in sys.modules else sys.modules["byzfl"].__spec__
    if found is None:
        pytest.skip(HOW_TO_INSTALL)
    for package, part in (("byzfl", ""), ("byzfl.aggregators", "/aggregators")):
        if package not in sys.modules:
            bare = ModuleType(package)
            bare.__path__ = [f"{found.submodule_search_locations[0]}{part}"]
            bare.__spec__ = found
            sys.modules[package] = bare
    return importlib.import_module(f"byzfl.aggregators.{name}")
