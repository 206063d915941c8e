"""Creating a federation in the browser."""

import json

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.urls import reverse
from hypothesis import given
from hypothesis import strategies as st

from audit.models import Event
from qflare_protocol.aggregation_policy import AggregationPolicy, Stage
from qflare_site.console.policy import KINDS, explained_policy, parts_of
from qflare_site.console.policy_form import PolicyForm
from tests.factories import make_federation, small_model
from tests.people import nothing_changed
from training.models import Federation
from training.terms import Terms

ADDRESS = reverse("console:federation-new")
BASICS = {
    "name": "wards", "trainer": "example:Trainer", "trainer_parameters": '{"epochs": 2}', "round_minutes": "30",
    "mode": "synchronous", "selection": "all", "over_selection": "1",
}  # fmt: skip
POLICY = {
    "minimum_updates": "4", "tolerated_fraction": "0.2", "required_tier": "none", "filters_1": "norm-bound",
    "filters:norm-bound:ratio": "2.5", "pre_aggregation_1": "nnm", "rule": "median", "server_optimiser": "none",
    "noise": "none",
}  # fmt: skip


def filled(**other):
    return BASICS | POLICY | {"model": SimpleUploadedFile("model.safetensors", small_model())} | other


@pytest.mark.django_db
class TestCreating:
    def test_the_federation_has_what_was_stated_and_the_log_says_who(self, staff):
        answer = staff.post(ADDRESS, filled())
        federation = Federation.objects.get()
        assert answer["Location"] == reverse("console:federation", args=(federation.id,))
        policy = federation.aggregation_policy()
        assert policy.filters == (Stage("norm-bound", {"ratio": 2.5}),)
        assert policy.pre_aggregation == (Stage("nnm"),)
        assert (policy.rule.name, policy.minimum_updates) == ("median", 4)
        assert (federation.round_seconds, federation.trainer_parameters) == (1800, {"epochs": 2})
        assert Event.objects.get(kind="federation.created").actor == "operator:sam"

    @pytest.mark.parametrize(
        ("other", "told"),
        [
            ({"name": "no good"}, "Enter a valid"),
            ({"model": ""}, "Choose the file of the initial model."),
            ({"model": SimpleUploadedFile("model", b"no tensors")}, "header"),
            ({"trainer_parameters": "[1]"}, "JSON object"),
            ({"filters:norm-bound:ratio": "-3"}, "greater than or equal to"),
            ({"rule": "krumm"}, "Select a valid choice"),
            ({"rule": "mean", "filters_1": "", "pre_aggregation_1": ""}, "attack"),
            ({"pre_aggregation_2": "nnm"}, "each part is named once"),
            ({"target_updates": "2"}, "below the policy"),
            ({"selection": "random"}, "needs a target or a fraction"),
            ({"selection_labels": "colour"}, "NAME=VALUE"),
            ({"privacy_budget_epsilon": "3"}, "noise"),
        ],
    )
    def test_what_is_wrong_is_said_and_nothing_is_created(self, staff, other, told):
        staff.get(ADDRESS)
        with nothing_changed():
            answer = staff.post(ADDRESS, filled(**other))
        assert answer.status_code == 200
        assert told in answer.content.decode()

    def test_a_name_that_is_taken_is_refused(self, staff):
        make_federation("wards")
        assert "exists already" in staff.post(ADDRESS, filled()).content.decode()

    def test_who_may_not_add_federations_gets_no_form(self, newcomer):
        assert newcomer.get(ADDRESS).status_code == 403
        assert newcomer.post(ADDRESS, filled()).status_code == 403


@pytest.mark.django_db
class TestCloning:
    def test_a_clone_starts_from_the_current_model_under_another_policy(self, staff):
        source = make_federation("digits", group="ward")
        address = f"{ADDRESS}?clone={source.id}"
        assert "Clone digits" in staff.get(address).content.decode()
        staff.post(address, {key: value for key, value in filled().items() if key != "model"})
        clone = Federation.objects.get(name="wards")
        assert bytes(clone.current_version.digest) == bytes(source.current_version.digest)
        assert clone.policy["rule"]["name"] == "median"

    def test_the_form_begins_with_what_the_source_has(self, staff):
        source = make_federation("digits", group="ward")
        page = staff.get(f"{ADDRESS}?clone={source.id}")
        assert page.context["form"].initial["group"] == "ward"
        assert page.context["policy"].initial["rule"] == source.policy["rule"]["name"]

    def test_terms_that_the_form_does_not_ask_for_are_kept_and_named(self, staff):
        terms = Terms(evaluated_by_devices=True, stop_metric="accuracy", stop_goal=0.98)
        source = make_federation("digits", terms=terms)
        address = f"{ADDRESS}?clone={source.id}"
        assert "stop_goal=0.98" in staff.get(address).content.decode()
        staff.post(address, {key: value for key, value in filled().items() if key != "model"})
        clone = Federation.objects.get(name="wards")
        assert (clone.evaluated_by_devices, clone.stop_metric, clone.stop_goal) == (True, "accuracy", 0.98)

    def test_a_policy_that_the_editor_cannot_show_is_not_cloned_into_another(self, staff):
        policy = AggregationPolicy(pre_aggregation=(Stage("nnm"), Stage("nnm")))
        source = make_federation("digits", policy=policy)
        answer = staff.get(f"{ADDRESS}?clone={source.id}", follow=True)
        assert "names a part twice" in answer.content.decode()
        assert answer.redirect_chain[0][0] == reverse("console:federation", args=(source.id,))

    @pytest.mark.parametrize("clone", ["x", "0", "../admin"])
    def test_a_source_that_is_no_id_is_none(self, staff, clone):
        assert "New federation" in staff.get(ADDRESS, {"clone": clone}).content.decode()


def test_every_part_is_explained_with_its_source_and_ranges():
    for kind in KINDS:
        for part in parts_of(kind):
            assert part.explanation.endswith("."), part.name
            assert part.source
            for parameter in part.parameters:
                assert parameter.low <= parameter.default <= parameter.high


def test_a_policy_is_explained_stage_by_stage_with_its_defaults():
    told = explained_policy(AggregationPolicy())
    assert [stage.part.name for stage in told] == ["median-clipping", "nnm", "geometric-median", "fedavgm", "none"]
    assert ("momentum", 0.6) in told[3].values


@given(
    st.lists(st.sampled_from(["norm-bound", "consensus-cosine"]), unique=True),
    st.lists(st.sampled_from(["median-clipping", "nnm", "bucketing", "adaptive-clipping"]), unique=True),
    st.sampled_from(["median", "krum", "geometric-median"]),
    st.floats(1.5, 9.0),
)
def test_what_the_editor_shows_of_a_policy_it_gives_back(filters, steps, rule, ratio):
    stages = tuple(Stage(name, {"ratio": ratio} if name == "norm-bound" else {}) for name in filters)
    mapped = tuple(Stage(name) for name in steps)
    policy = AggregationPolicy(filters=stages, pre_aggregation=mapped, rule=Stage(rule), minimum_updates=9)
    shown = {key: value for key, value in PolicyForm(begun_with=policy).initial.items() if value is not None}
    form = PolicyForm(json.loads(json.dumps(shown)), begun_with=policy)
    assert form.is_valid(), form.errors
    assert form.policy() == policy
