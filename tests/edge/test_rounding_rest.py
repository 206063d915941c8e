"""What rounding takes from an update comes with the next one, also after a crash, and never from elsewhere."""

from pathlib import Path

import numpy as np
import pytest

from edge_client.rounding_rest import RoundingRest, rest_was_delivered
from edge_client.update_coding import coded_blocks
from qflare_protocol.aggregation_policy import AggregationPolicy, Stage
from qflare_protocol.errors import Refusal
from qflare_protocol.ranges import BLOCK_COLUMNS
from qflare_protocol.tensors import Float32Array, layout_of
from qflare_protocol.update_shape import UpdateShape

SIZE = BLOCK_COLUMNS + 100
FEDERATION, POLICY = b"f" * 16, bytes(64)
BASE = {"w": np.zeros(SIZE, dtype=np.float32)}
SHAPE = UpdateShape.of(
    AggregationPolicy(form=Stage("int8-blocks", {"block_values": 64})),
    layout_of(BASE),
    federation_id=FEDERATION,
    round_id=bytes(16),
)
STEP = {"w": np.random.default_rng(1).normal(size=SIZE).astype(np.float32)}


def decoded(coded: bytes) -> Float32Array:
    values = np.empty(SIZE, dtype=np.float32)
    SHAPE.form.coding.decode(np.frombuffer(coded, dtype=np.uint8), values)
    return values


def rest_of(home: Path, *, federation: bytes = FEDERATION, policy: bytes = POLICY) -> RoundingRest:
    return RoundingRest(home, federation, policy, SIZE)


def made(rest: RoundingRest, *, kept: bool = True) -> Float32Array:
    with rest:
        coded = b"".join(coded_blocks(SHAPE, BASE, STEP, rest))
        if kept:
            rest.commit()
    return decoded(coded)


def sent(home: Path, *, federation: bytes = FEDERATION, policy: bytes = POLICY) -> Float32Array:
    """Make an update and get its receipt."""
    values = made(rest_of(home, federation=federation, policy=policy))
    rest_was_delivered(home, federation)
    return values


def test_over_many_rounds_nothing_is_lost(tmp_path: Path) -> None:
    total = sum(sent(tmp_path).astype(np.float64) for _ in range(50))
    once = decoded(b"".join(coded_blocks(SHAPE, BASE, STEP)))
    with_rest, without = np.abs(total - 50 * STEP["w"]).max(), np.abs(50.0 * once - 50 * STEP["w"]).max()
    largest = np.abs(STEP["w"]).max()
    assert with_rest < largest / 100 < without / 5


def test_a_crash_before_the_update_is_kept_leaves_the_rest_as_it_was(tmp_path: Path) -> None:
    sent(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    first = made(rest_of(tmp_path), kept=False)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert sent(tmp_path).tobytes() == first.tobytes()


def test_what_is_sealed_again_before_its_receipt_takes_the_same_rest_along(tmp_path: Path) -> None:
    sent(tmp_path)
    first, again = made(rest_of(tmp_path)), made(rest_of(tmp_path))
    assert first.tobytes() == again.tobytes()
    rest_was_delivered(tmp_path, FEDERATION)
    assert made(rest_of(tmp_path)).tobytes() != first.tobytes()


def test_a_receipt_without_a_rest_is_harmless(tmp_path: Path) -> None:
    rest_was_delivered(tmp_path, FEDERATION)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("other", [{"federation": bytes(16)}, {"policy": b"p" * 64}], ids=["federation", "policy"])
def test_the_rest_of_another_federation_or_policy_is_not_added(tmp_path: Path, other: dict[str, bytes]) -> None:
    fresh = sent(tmp_path)
    assert sent(tmp_path, **other).tobytes() == fresh.tobytes()
    assert sent(tmp_path, **other).tobytes() != fresh.tobytes()


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-1], lambda data: data[:-4] + b"\xff\xff\xff\x7f", lambda _: b""]
)
def test_a_damaged_rest_stops_no_device(tmp_path: Path, damage: object) -> None:
    sent(tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    assert np.isfinite(sent(tmp_path)).all()


def test_only_its_owner_reads_it_and_no_draft_is_left(tmp_path: Path) -> None:
    sent(tmp_path)
    (path,) = tmp_path.iterdir()
    assert (path.name, path.stat().st_mode & 0o777) == (f"rounding-rest.{FEDERATION.hex()}", 0o600)


def test_an_update_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    rest, broken = rest_of(tmp_path), {"w": np.full(SIZE, np.nan, dtype=np.float32)}
    with pytest.raises(Refusal) as caught, rest:
        b"".join(coded_blocks(SHAPE, BASE, broken, rest))
    assert caught.value.code == "invalid-tensors"
    assert list(tmp_path.iterdir()) == []
