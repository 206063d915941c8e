"""Which columns an update is about: all, those of some tensors, or the round's random mask of either."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qflare_protocol.aggregation_policy import AggregationPolicy, Stage
from qflare_protocol.errors import Refusal
from qflare_protocol.random_mask import RandomMask, masked_size
from qflare_protocol.ranges import BLOCK_COLUMNS
from qflare_protocol.tensors import Tensor, TensorLayout
from qflare_protocol.update_forms import FORMS, update_form
from qflare_protocol.update_shape import UpdateShape, update_columns

FEDERATION, ROUND = b"f" * 16, b"r" * 16
sizes = st.lists(st.one_of(st.integers(0, 50), st.integers(0, 3 * BLOCK_COLUMNS)), min_size=1, max_size=6)


def layout(lengths):
    return TensorLayout(tuple(Tensor(f"{'ab'[index % 2]}{index}", "F32", (one,)) for index, one in enumerate(lengths)))


def shape_of(lengths, *, parameters=(), form="delta", round_id=ROUND, **parameters_of_form):
    policy = AggregationPolicy(form=Stage(form, parameters_of_form), parameters=parameters)
    return UpdateShape.of(policy, layout(lengths), federation_id=FEDERATION, round_id=round_id)


def chosen(shape):
    marks = np.zeros(shape.model.size, dtype=bool)
    for piece in shape.pieces():
        marks[piece.start : piece.start + piece.width][piece.chosen] = True
    return marks


@given(lengths=sizes, parameters=st.sampled_from([(), ("a*",), ("b*",)]), fraction=st.sampled_from([None, 0.001, 0.4]))
@settings(max_examples=60, deadline=None)
def test_pieces_hold_all_of_the_model_in_order_and_say_every_chosen_column_once(lengths, parameters, fraction):
    options = {} if fraction is None else {"form": "random-mask", "fraction": fraction}
    try:
        shape = shape_of(lengths, parameters=parameters, **options)
    except Refusal as refusal:
        assert refusal.code == "policy-refused" and parameters
        return
    place = 0
    for piece in shape.pieces():
        assert (piece.start, 1 <= piece.width <= BLOCK_COLUMNS) == (place, True)
        assert piece.count == len(np.zeros(piece.width)[piece.chosen])
        place += piece.width
    assert place == shape.model.size
    marks = chosen(shape)
    names = np.concatenate([[tensor.name[0]] * tensor.size for tensor in shape.model.tensors if tensor.size] or [[]])
    assert marks.sum() == shape.size
    assert all(names[marks] == parameters[0][0]) if parameters else True


def test_a_mask_is_the_same_for_every_device_and_another_in_every_round_federation_and_policy():
    drawn = {"fraction": 0.25, "federation_id": FEDERATION, "round_id": ROUND, "policy_digest": bytes(64)}
    places = [RandomMask.of_round(**(drawn | change)).chosen(3, 1000).tobytes() for change in (
        {}, {}, {"federation_id": bytes(16)}, {"round_id": bytes(16)}, {"policy_digest": b"p" * 64})]  # fmt: skip
    assert places[0] == places[1]
    assert len(set(places)) == 4


def test_a_mask_draws_every_column_alike():
    counts = np.zeros(500)
    for number in range(400):
        mask = RandomMask.of_round(0.2, federation_id=FEDERATION, round_id=number.to_bytes(16), policy_digest=bytes(64))
        counts[mask.chosen(0, 500)] += 1
    assert counts.sum() == 400 * 100
    assert 45 <= counts.min() and counts.max() <= 120  # binomial of 400 at 0.2: mean 80, deviation 8


@given(size=st.integers(1, 4 * BLOCK_COLUMNS), fraction=st.floats(0.001, 0.9))
@settings(max_examples=60, deadline=None)
def test_the_size_of_a_mask_is_known_without_drawing_it(size, fraction):
    mask = RandomMask(fraction, bytes(64))
    starts = range(0, size, BLOCK_COLUMNS)
    drawn = [mask.chosen(start // BLOCK_COLUMNS, min(BLOCK_COLUMNS, size - start)) for start in starts]
    assert sum(map(len, drawn)) == masked_size(size, fraction)
    assert all((np.diff(one) > 0).all() for one in drawn)


def test_a_prefix_and_a_name_find_their_tensors():
    assert shape_of([3, 4, 5], parameters=("a*",)).chosen == TensorLayout(layout([3, 4, 5]).tensors[::2])
    assert shape_of([3, 4, 5], parameters=("b1",)).size == 4
    assert shape_of([3, 4, 5], parameters=("*",)).everything


def test_a_name_does_not_stand_for_what_it_begins():
    with pytest.raises(Refusal) as caught:
        shape_of([3], parameters=("a",))
    assert caught.value.code == "policy-refused"


def test_the_columns_of_a_policy_are_the_same_in_every_round():
    policy = AggregationPolicy(form=Stage("random-mask"), parameters=("a*",))
    lengths = [40_000, 7, 20_000]
    assert update_columns(policy, layout(lengths)) == masked_size(60_000, 0.1)
    assert not np.array_equal(
        chosen(shape_of(lengths, form="random-mask")), chosen(shape_of(lengths, form="random-mask", round_id=bytes(16)))
    )


@pytest.mark.parametrize(
    "name, parameters",
    [
        ("top-k", {}),
        ("delta", {"fraction": 0.1}),
        ("bfloat16", {"block_values": 64}),
        ("random-mask", {"fraction": 0.0}),
        ("random-mask", {"fraction": 0.95}),
        ("random-mask", {"block_values": 64}),
        *(("int8-blocks", {"block_values": number}) for number in (0, 1, 32, 65, 100.5, 8192, -64)),
    ],
)
def test_a_form_that_there_is_not_is_refused(name, parameters):
    with pytest.raises(Refusal) as caught:
        AggregationPolicy(form=Stage(name, parameters))
    assert caught.value.code == "policy-refused"


@pytest.mark.parametrize("form", FORMS)
def test_a_policy_of_every_form_survives_its_map(form):
    policy = AggregationPolicy(form=Stage(form), parameters=("a", "b.*"))
    assert AggregationPolicy.from_map(policy.to_map()) == policy
    assert update_form(form, {}).name == form


def test_the_default_form_is_not_named():
    assert {"form", "parameters"}.isdisjoint(AggregationPolicy().to_map())
