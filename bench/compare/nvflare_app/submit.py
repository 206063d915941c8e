"""Run by NVIDIA FLARE's own interpreter: `submit.py KIT TASK MODEL CLIENTS ROUNDS` submits a job and awaits its end.

KIT is the administrator's startup kit, TASK what `client.py` is given, MODEL the initial weights as one array (npy).
"""

import sys
import time
from importlib.metadata import version
from pathlib import Path

from nvflare.app_common.np.recipes.fedavg import NumpyFedAvgRecipe
from nvflare.recipe.prod_env import ProdEnv

STATUS_SECONDS = 1.0


def main() -> None:
    """Print `version <of NVIDIA FLARE>`, `submitted <seconds since the epoch>`, and the job's last state."""
    kit, task, model, clients, rounds = sys.argv[1:]
    recipe = NumpyFedAvgRecipe(
        name="compare",
        initial_ckpt=model,
        min_clients=int(clients),
        num_rounds=int(rounds),
        train_script=str(Path(__file__).with_name("client.py")),
        train_args=task,
    )
    environment = ProdEnv(startup_kit_location=kit, login_timeout=60.0, username=Path(kit).name)
    submitted = time.time()
    run = recipe.execute(environment)
    sys.stdout.write(f"version {version('nvflare')}\nsubmitted {submitted}\n")
    sys.stdout.flush()
    while not str(status := run.get_status()).startswith("FINISHED"):
        time.sleep(STATUS_SECONDS)
    sys.stdout.write(f"{status}\n")


if __name__ == "__main__":
    main()
