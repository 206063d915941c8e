"""Updates in every form: what the enclave makes of them, by one process and by ranges, and what it refuses."""

import numpy as np
import pytest

from enclave.core.rules.pipeline import Pipeline
from qflare_protocol import ranges
from qflare_protocol.aggregation_policy import Stage
from qflare_protocol.errors import Refusal
from qflare_protocol.ranges import BLOCK_COLUMNS
from qflare_protocol.tensors import decode_tensors
from qflare_protocol.update_forms import FORMS
from tests.enclave_core.form_rounds import FormRound, SharedFormRound, hand_in, shape_of, train
from tests.enclave_core.rounds import reasons
from tests.policies import bare

SIZE = 4 * BLOCK_COLUMNS + 77
WIDE = np.linspace(-1, 1, SIZE, dtype=np.float32)
LAYERS = {
    "adapter.a": np.linspace(-1, 1, 3 * BLOCK_COLUMNS // 2, dtype=np.float32).reshape(3, -1),
    "adapter.b": np.linspace(2, 1, 700, dtype=np.float32),
    "body": np.linspace(-3, 3, 2 * BLOCK_COLUMNS + 5, dtype=np.float32),
    "empty": np.zeros((0, 4), dtype=np.float32),
    "head": np.array(0.25, dtype=np.float32),
}
ADAPTERS = ("adapter.*", "head")
EXACT = {"delta": 2e-7, "weights": 2e-7, "bfloat16": 2e-4, "int8-blocks": 5e-4, "random-mask": 2e-7}
"""How far a new weight may lie from the plain mean, by form; steps are some 0.01."""
RULES = {
    "foreseen": {"rule": Stage("mean")},
    "by products": {"rule": Stage("geometric-median"), "pre_aggregation": (Stage("nnm"),), "tolerated_fraction": 0.2},
    "by coordinate": {"rule": Stage("median"), "pre_aggregation": (Stage("nnm"),), "tolerated_fraction": 0.2},
}


@pytest.fixture(autouse=True)
def small_segments(monkeypatch):
    """Let models of five blocks have five segments."""
    monkeypatch.setattr(ranges, "SMALLEST_SEGMENT_BLOCKS", 1)


def layered(policy, **options):
    entry = FormRound(base=LAYERS, policy=policy)
    trained = train(entry, **options)
    for model in trained:
        hand_in(entry, model)
    return entry, trained


def columns(entry, model):
    """Return which of all of the model's columns the updates are about."""
    flat = np.zeros(sum(value.size for value in model.values()), dtype=bool)
    for piece in shape_of(entry).pieces():
        flat[piece.start : piece.start + piece.width][piece.chosen] = True
    return flat


def flat(model):
    return np.concatenate([value.reshape(-1) for value in model.values()])


@pytest.mark.parametrize("parameters", [(), ADAPTERS], ids=["all", "adapters"])
@pytest.mark.parametrize("form", FORMS)
def test_the_mean_of_updates_is_that_of_the_trained_models_and_the_rest_is_as_it_was(form, parameters):
    entry, trained = layered(bare(form=Stage(form), parameters=parameters))
    made, base = flat(entry.new_model()), flat(LAYERS)
    chosen = columns(entry, LAYERS)
    mean = np.mean([flat(model) for model in trained], axis=0)
    np.testing.assert_allclose(made[chosen], mean[chosen], rtol=0, atol=EXACT[form] * 3)
    assert made[~chosen].tobytes() == base[~chosen].tobytes()
    assert (made[chosen] != base[chosen]).mean() > 0.9
    assert chosen.all() == (form != "random-mask" and not parameters)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("form", FORMS)
def test_ranges_make_the_model_of_one_process_bit_for_bit(form, rule):
    models = []
    for processes in (1, 3):
        policy = bare(form=Stage(form, {"fraction": 0.7} if form == "random-mask" else {}), ranges=processes, **rule)
        entry = SharedFormRound(WIDE, policy) if processes > 1 else FormRound(base={"w": WIDE}, policy=policy)
        for model in train(entry):
            hand_in(entry, model)
        models.append(entry.new_model()["w"])
    if form == "random-mask":  # the policy is part of its draw
        assert (models[0] != WIDE).sum() == (models[1] != WIDE).sum() > 0.6 * SIZE
    else:
        assert models[0].tobytes() == models[1].tobytes()


@pytest.mark.parametrize("form", [form for form in FORMS if form != "random-mask"])
def test_ranges_share_out_the_chosen_parameters_and_carry_their_state(form):
    rule = {"rule": Stage("median"), "history": 0.5, "server_optimiser": Stage("fedavgm")}
    entry = SharedFormRound(WIDE, bare(form=Stage(form), parameters=("w*",), ranges=3, **rule))
    for model in train(entry):
        hand_in(entry, model)
    assert np.isfinite(entry.new_model()["w"]).all()
    assert {name.partition("@")[0].partition("/")[0] for name in entry.carried_on()} == {"history", "momentum"}


@pytest.mark.parametrize("form", FORMS)
def test_the_sealed_size_is_known_before(form):
    entry = FormRound(base=LAYERS, policy=bare(form=Stage(form), parameters=ADAPTERS))
    assert shape_of(entry).sealed_bytes(1) == (len(hand_in(entry, train(entry)[0])),)


def test_a_smaller_form_is_smaller():
    sizes = {form: sum(shape_of(FormRound(base={"w": WIDE}, policy=bare(form=Stage(form)))).sealed_bytes(1))
             for form in FORMS}  # fmt: skip
    assert sizes["delta"] == sizes["weights"] > 1.9 * sizes["bfloat16"] > 1.8 * 1.9 * sizes["int8-blocks"]
    assert sizes["random-mask"] < 0.12 * sizes["delta"]


def test_an_update_of_another_form_than_the_policys_is_refused():
    entry, trained = layered(bare(form=Stage("bfloat16")))
    hand_in(entry, trained[0], form="delta")
    judged, _ = entry.aggregate()
    assert reasons(judged) == {6: "policy-refused"}


@pytest.mark.parametrize("form", FORMS)
def test_a_container_of_another_form_behind_the_manifests_name_is_refused(form):
    entry, trained = layered(bare(form=Stage(form)))
    told, entry.policy = entry.policy, bare(form=Stage("delta" if form in ("bfloat16", "int8-blocks") else "bfloat16"))
    hand_in(entry, trained[0], form=form)
    entry.policy = told
    judged, _ = entry.aggregate()
    assert reasons(judged) == {6: "invalid-tensors"}


def one_block(scale, steps=(127, -127, 5)):
    values = np.zeros(64, dtype=np.int8)
    values[: len(steps)] = steps
    return np.float32(scale).astype("<f4").tobytes() + values.tobytes()


@pytest.mark.parametrize(
    "block",
    [
        one_block(np.nan),
        one_block(np.inf),
        one_block(-np.inf),
        one_block(-1.0),
        one_block(2.0**41),
        one_block(np.finfo(np.float32).max),
        one_block(1e-40),
        one_block(-0.0, ()),
        one_block(0.0),
        one_block(1.0, ()),
        one_block(1.0, (126,)),
        one_block(1.0, (-128,)),
        one_block(1.0, (127,) * 64),
    ],
    ids=["NaN", "infinite", "minus infinite", "negative", "too large", "largest", "too small", "minus zero",
         "a zero scale of something", "a scale of nothing", "not full", "out of range", "not filled up"],
)  # fmt: skip
def test_a_block_that_is_not_the_one_encoding_of_bounded_values_drops_its_update_alone(block):
    entry = FormRound(base={"w": WIDE[:60]}, policy=bare(form=Stage("int8-blocks", {"block_values": 64})))
    trained = train(entry, count=4)
    for model in trained:
        hand_in(entry, model)
    hand_in(entry, trained[0], blocks=[block])
    judged, _ = entry.aggregate()
    assert reasons(judged) == {5: "invalid-tensors"}
    assert judged.verdicts[4].scores is None


def test_the_largest_block_is_taken():
    entry = FormRound(base={"w": WIDE[:60]}, policy=bare(form=Stage("int8-blocks", {"block_values": 64})))
    for _ in range(3):
        hand_in(entry, None, blocks=[one_block(2.0**40)])
    assert len(entry.aggregate()[0].accepted) == 3


def test_weights_that_overflow_when_the_base_is_taken_off_drop_their_update_alone():
    largest = np.finfo(np.float32).max
    entry = FormRound(base={"w": -np.abs(WIDE[:60])}, policy=bare(form=Stage("weights")))
    for model in train(entry, count=4):
        hand_in(entry, model)
    for value in (largest, -largest, np.inf, np.nan):
        hand_in(entry, {"w": np.full(60, value, dtype=np.float32)})
    assert reasons(entry.aggregate()[0]) == dict.fromkeys((5, 6, 7, 8), "invalid-tensors")


def test_a_poisoned_update_is_found_in_every_form():
    for form in FORMS:
        policy = bare(form=Stage(form), filters=(Stage("norm-bound"), Stage("consensus-cosine")))
        entry, trained = layered(policy)
        hand_in(entry, {name: 11 * value - 10 * trained[0][name] for name, value in LAYERS.items()})
        assert reasons(entry.aggregate()[0])[6] in ("norm-above-bound", "cosine-below-minimum"), form


@pytest.mark.parametrize(
    "changes",
    [
        {"history": 0.5},
        {"server_optimiser": Stage("fedavgm")},
        {"rule": Stage("centered-clipping"), "tolerated_fraction": 0.1},
    ],
    ids=["history", "momentum", "last aggregate"],
)
def test_a_mask_of_each_round_and_rows_carried_between_rounds_do_not_go_together(changes):
    Pipeline.of(bare(**changes))
    with pytest.raises(Refusal) as caught:
        Pipeline.of(bare(form=Stage("random-mask"), **changes))
    assert caught.value.code == "policy-refused" and "nothing can be carried" in caught.value.detail


@pytest.mark.parametrize("parameters", [("adapter.c",), ("a*", "z*"), ("empty",)])
def test_parameters_that_the_model_does_not_have_are_refused(parameters):
    entry = FormRound(base=LAYERS)
    for model in train(entry):
        hand_in(entry, model)
    entry.policy = bare(parameters=parameters)
    with pytest.raises(Refusal) as caught:
        entry.aggregate()
    assert caught.value.code == "policy-refused"


def test_a_base_model_that_changes_between_its_readings_makes_no_model():
    entry, _ = layered(bare(parameters=ADAPTERS, rule=Stage("krum")))
    courier, readings = entry.courier(), []
    give = courier.blob

    def changing(source):
        readings.append(source)
        blob = give(source)
        if source == 0 and readings.count(0) > 1:
            blob.content = blob.content[:-1] + b"\x01"
        return blob

    courier.blob = changing
    with pytest.raises(Refusal) as caught:
        entry.aggregate(courier)
    assert caught.value.code == "enclave-failed"


def test_the_model_is_whole_in_its_own_layout():
    entry, _ = layered(bare(parameters=("head",)))
    made = entry.new_model()
    assert [(name, value.shape) for name, value in made.items()] == [
        (name, value.shape) for name, value in decode_tensors(entry.base_bytes).items()
    ]
