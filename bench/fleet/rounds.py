"""What an operator does for a fleet: tokens, a federation with its rounds, and waiting for a round's end."""

import time
import uuid
from datetime import timedelta
from typing import Any

import numpy as np

from qflare_protocol.aggregation_policy import AggregationPolicy

OPERATOR = "operator:bench"
MODEL_COLUMNS = 5_000
MODEL_BYTES = 4 * MODEL_COLUMNS
POLICY = AggregationPolicy()
"""What a federation has where its operator chooses nothing: what is measured is what people get."""
ROUND_TIME = timedelta(hours=3)
"""So long that no round of any fleet ends by time, and every update counts."""
LONGEST_WAIT_SECONDS = 3600


def make_tokens(count: int, name: str) -> list[str]:
    """Issue tokens for the devices of a group, and return their texts."""
    from django.utils import timezone

    from enrollment.services import issue_token

    now = timezone.now()
    return [issue_token(actor=OPERATOR, now=now, group=name).text for _ in range(count)]


def make_federation(fleet: str) -> uuid.UUID:
    """Create the federation of the whole group and return its id."""
    from django.utils import timezone

    from qflare_protocol.tensors import encode_tensors
    from training.services.federations import create_federation

    federation = create_federation(
        fleet,
        initial_model=encode_tensors({"w": np.zeros(MODEL_COLUMNS, np.float32)}),
        trainer="bench:Precomputed",
        policy=POLICY,
        group=fleet,
        round_time=ROUND_TIME,
        actor=OPERATOR,
        now=timezone.now(),
    )
    return federation.pk


def open_round(federation_id: uuid.UUID) -> tuple[Any, float]:
    """Open a round of the whole group and wait for its enclave; return the round and the seconds that took."""
    from django.utils import timezone

    from training.dispatch import start_round

    started = time.perf_counter()
    opened = start_round(federation_id, actor=OPERATOR, now=timezone.now())
    return _wait(opened, "open"), time.perf_counter() - started


def end_of(round_: Any) -> tuple[int, float]:
    """Wait for the round's end; return how many updates are in the model and how long that took after the last."""
    started = time.perf_counter()
    ended = _wait(round_, "completed")
    return ended.participations.filter(state="accepted").count(), time.perf_counter() - started


def _wait(round_: Any, state: str) -> Any:
    deadline = time.monotonic() + LONGEST_WAIT_SECONDS
    while time.monotonic() < deadline:
        round_.refresh_from_db(fields=("state", "end_reason"))
        if round_.state == state:
            return round_
        if round_.state in ("failed", "cancelled"):
            raise SystemExit(f"the round {round_.state}: {round_.end_reason}")
        time.sleep(0.1)
    raise SystemExit(f"the round is still {round_.state}")
