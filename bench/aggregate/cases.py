"""What is measured: our pipelines, and the same rules of byzfl and Flower, over one matrix of updates."""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace

import numpy as np
from numpy.typing import NDArray

from enclave.core.rules.in_memory import Aggregator
from qflare_protocol.aggregation_policy import NONE, AggregationPolicy, Stage
from qflare_protocol.ranges import BLOCK_COLUMNS

Float32 = NDArray[np.float32]
Run = Callable[[], object]

TOLERATED = 0.2
BYZFL, FLOWER = "byzfl 0.0.11", "Flower 1.41.0"


@dataclass(frozen=True)
class Rule:
    """A rule by its stages, and which bound it is held to: "read", "gram" or "order"."""

    name: str
    bound: str
    rule: str
    before: tuple[str, ...] = ()

    def ours(self, updates: Float32) -> Run:
        """Return what aggregates the updates once."""
        robust = self.rule != "mean"
        policy = AggregationPolicy(
            minimum_updates=len(updates),
            tolerated_fraction=(TOLERATED + 1e-9) if robust and self.rule != "bulyan" else 0.0,
            filters=(),
            pre_aggregation=tuple(Stage(name) for name in self.before),
            rule=Stage(self.rule),
            server_optimiser=NONE,
        )
        return lambda: Aggregator(policy).aggregate(updates, seed=bytes(32))


RULES = (
    Rule("mean", "read", "mean"),
    Rule("multi-krum", "gram", "multi-krum"),
    Rule("krum", "gram", "krum"),
    Rule("geometric median", "gram", "geometric-median"),
    Rule("centered clipping", "gram", "centered-clipping"),
    Rule("NNM, mean", "gram", "mean", ("nnm",)),
    Rule("clipping, NNM, geometric median (default)", "gram", "geometric-median", ("median-clipping", "nnm")),
    Rule("trimmed mean", "order", "trimmed-mean"),
    Rule("median", "order", "median"),
    Rule("mean around the median", "", "meamed"),
    Rule("NNM, trimmed mean", "", "trimmed-mean", ("nnm",)),
    Rule("clipping, NNM, trimmed mean", "", "trimmed-mean", ("median-clipping", "nnm")),
)


def read_bound(updates: Float32) -> Run:
    """Return one read of all updates, by range: the largest element of each."""
    return lambda: [block.max() for block in _blocks(updates)]


def gram_bound(updates: Float32) -> Run:
    """Return one chunked Gram product, in float32 by range and float64 in sum."""

    def product() -> NDArray[np.float64]:
        gram = np.zeros((len(updates), len(updates)))
        for block in _blocks(updates):
            gram += block @ block.T
        return gram

    return product


def _blocks(updates: Float32) -> list[Float32]:
    return [updates[:, start : start + BLOCK_COLUMNS] for start in range(0, updates.shape[1], BLOCK_COLUMNS)]


def others(updates: Float32) -> dict[str, dict[str, Run]]:
    """Return, by the name of our rule, the same rule of byzfl and of Flower where they are installed and have it."""
    found: dict[str, dict[str, Run]] = {rule.name: {} for rule in RULES}
    f = int(TOLERATED * len(updates))
    if importlib.util.find_spec("byzfl") is not None:
        rules, before = _part("byzfl", "aggregators.aggregators"), _part("byzfl", "aggregators.preaggregators")
        found["mean"][BYZFL] = lambda: rules.Average()(updates)
        found["multi-krum"][BYZFL] = lambda: rules.MultiKrum(f)(updates)
        found["krum"][BYZFL] = lambda: rules.Krum(f)(updates)
        found["geometric median"][BYZFL] = lambda: rules.GeometricMedian()(updates)
        found["centered clipping"][BYZFL] = lambda: rules.CenteredClipping(L=3, tau=100.0)(updates)
        found["NNM, mean"][BYZFL] = lambda: rules.Average()(before.NNM(f)(updates))
        found["NNM, trimmed mean"][BYZFL] = lambda: rules.TrMean(f)(before.NNM(f)(updates))
        found["trimmed mean"][BYZFL] = lambda: rules.TrMean(f)(updates)
        found["median"][BYZFL] = lambda: rules.Median()(updates)
        found["mean around the median"][BYZFL] = lambda: rules.Meamed(f)(updates)
    if importlib.util.find_spec("flwr") is not None:
        strategy = _flower()
        results = [([row], 1) for row in updates]
        found["mean"][FLOWER] = lambda: strategy.aggregate(results)
        found["multi-krum"][FLOWER] = lambda: strategy.aggregate_krum(results, f, len(updates) - f)
        found["krum"][FLOWER] = lambda: strategy.aggregate_krum(results, f, 0)
        found["trimmed mean"][FLOWER] = lambda: strategy.aggregate_trimmed_avg(results, TOLERATED)
        found["median"][FLOWER] = lambda: strategy.aggregate_median(results)
    return found


def nnm_bytes(updates: int, columns: int) -> int:
    """Return the memory that byzfl's nearest-neighbour mixing takes: n (n - f) d floats."""
    return updates * (updates - int(TOLERATED * updates)) * columns * 4


def _part(package: str, module: str) -> ModuleType:
    """Import a module of a package without running the package's own, which imports what is not needed here."""
    spec = importlib.util.find_spec(package) if package not in sys.modules else sys.modules[package].__spec__
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(f"{package} is no package")
    folder = spec.submodule_search_locations[0]
    parents = [package, *(f"{package}.{parent}" for parent in _parents(module))]
    for name in parents:
        if name not in sys.modules:
            bare = ModuleType(name)
            bare.__spec__ = spec
            bare.__path__ = [folder + name.removeprefix(package).replace(".", "/")]
            sys.modules[name] = bare
    return importlib.import_module(f"{package}.{module}")


def _parents(module: str) -> list[str]:
    parts = module.split(".")[:-1]
    return [".".join(parts[: end + 1]) for end in range(len(parts))]


def _flower() -> ModuleType:
    """Import Flower's arithmetic; what it imports only to name types is left out."""
    anything = SimpleNamespace(FitRes=object, NDArray=np.ndarray, NDArrays=list, parameters_to_ndarrays=None)
    for name, members in (("flwr.common", vars(anything)), ("flwr.server.client_proxy", {"ClientProxy": object})):
        stand_in = ModuleType(name)
        stand_in.__dict__.update(members)
        sys.modules.setdefault(name, stand_in)
    return _part("flwr", "server.strategy.aggregate")
