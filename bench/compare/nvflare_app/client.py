"""A client of NVIDIA FLARE: the same training code on the same shard, in the job's process (Client API).

`client.py TASK`: a JSON file with `trainer`, `parameters` and `paths`, the folders that the trainer is imported from.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import nvflare.client as flare

KEY = "numpy_key"


def main() -> None:
    """Train every round that the server sends."""
    task = json.loads(Path(sys.argv[1]).read_text())
    sys.path += task["paths"]  # behind NVIDIA FLARE's own packages
    from edge_client.trainer import load_trainer

    flare.init()
    shard = flare.get_site_name().rpartition("-")[2]
    trainer = load_trainer(task["trainer"], task["parameters"], {"shard": shard})
    shapes = {name: value.shape for name, value in trainer.initial_model().items()}
    while flare.is_running():
        given = flare.receive()
        if given is None:
            break
        outcome = trainer.train(_tensors(given.params[KEY], shapes), int(given.current_round) + 1)
        trained = np.concatenate([outcome.model[name].ravel() for name in shapes])
        meta = {"NUM_STEPS_CURRENT_ROUND": outcome.sample_count}
        flare.send(flare.FLModel(params={KEY: trained}, params_type="FULL", metrics=outcome.metrics, meta=meta))


def _tensors(flat: Any, shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    """Return the tensors of which NVIDIA FLARE's NumPy jobs have the values in one array."""
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes.values()])
    parts = np.split(np.asarray(flat, dtype=np.float32), ends[:-1])
    return {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}


if __name__ == "__main__":
    main()
