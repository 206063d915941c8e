"""The screens of model versions: lineage, metrics, provenance, and two versions side by side."""

import dataclasses
import re

import pytest
from django.db import transaction
from django.urls import reverse
from django.utils import timezone

from audit.models import Entry
from audit.services import erase_disclosures, record_event, sequence_log
from qflare_protocol import pqc
from qflare_protocol.attestation.evidence import SIGNATURE_ALGORITHM
from qflare_protocol.cose import Signer
from qflare_protocol.encoding import encode
from qflare_protocol.round_result import RoundResult, commitment_to, sign_result
from qflare_protocol.round_verdicts import UpdateVerdict, verdict_proofs
from qflare_site.console import listing
from qflare_site.console.versions import read_provenance
from tests.admin.conftest import signed_in
from tests.factories import (
    ACTOR,
    NOW,
    make_completed_round,
    make_device,
    make_enclave,
    make_federation,
    make_user,
)
from training.models import Federation, ModelVersion, Participation
from training.services.model_release import release_version, roll_back

pytestmark = pytest.mark.django_db


@pytest.fixture
def reader(db):
    """The browser of somebody who may look at models and nothing else."""
    return signed_in(make_user("rita", "view_modelversion"))


@pytest.fixture
def versions(db):
    """Versions 0, 1 and 2 of one federation; edge-0 was rejected in the first round."""
    for number in range(4):
        make_device(f"edge-{number}")
    federation = make_federation()
    for rejected, accuracy in (("edge-0", 0.5), ("", 0.75)):
        make_completed_round(federation, rejected=rejected, accuracy=accuracy)
        federation.refresh_from_db()
    return list(federation.versions.order_by("number"))


def words_of(answer):
    assert answer.status_code == 200
    inside = answer.content.decode().split('id="console"')[1]
    return " ".join(re.sub(r"<[^>]+>", " ", inside).split())


def page(browser, name, *arguments, **query):
    return browser.get(reverse(f"console:{name}", args=arguments), query)


def test_the_list_tells_what_each_version_continues_and_what_made_it(reader, versions):
    words = words_of(page(reader, "models"))
    assert re.search(r"digits v2 v1 · compare round 2 0\.7500 –", words)
    assert "digits v0 – the beginning" in words


def test_the_list_is_narrowed_by_its_address_and_then_has_the_plots(reader, versions):
    make_federation("letters")
    words = words_of(page(reader, "models", federation__name="digits"))
    assert "letters v0" not in words
    assert "Accuracy per round" in words
    assert "Accuracy per round" not in words_of(page(reader, "models"))


def test_a_name_that_is_no_federation_is_as_if_none_were_chosen(reader, versions):
    for name in ("\0", "digits\0", "no such"):
        words = words_of(page(reader, "models", federation__name=name))
        assert "digits v0" in words
        assert "Accuracy per round" not in words


def test_a_federation_beyond_those_offered_is_chosen_all_the_same(reader, versions, monkeypatch):
    monkeypatch.setattr(listing, "FEDERATIONS_OFFERED", 1)
    make_federation("letters")
    answer = page(reader, "models", federation__name="letters")
    assert [row.version.federation.name for row in answer.context["rows"]] == ["letters"]
    assert "Accuracy per round" in words_of(answer)
    assert '<option value="letters" selected>' in answer.content.decode()
    assert '<option value="letters"' not in page(reader, "models").content.decode()


def test_the_released_version_is_marked(reader, versions):
    release_version(versions[1].id, actor=ACTOR, now=NOW)
    assert "Released" in words_of(page(reader, "model", versions[1].id))
    words = words_of(page(reader, "models", released="yes"))
    assert "digits v1" in words
    assert "digits v2" not in words


def test_no_permission_no_models(newcomer, client, versions):
    for name, arguments in (("models", ()), ("model", (versions[0].id,)), ("model-comparison", ())):
        assert page(newcomer, name, *arguments).status_code == 403
        assert page(client, name, *arguments)["Location"].startswith("/admin/login/")


def test_a_version_shows_its_metrics_by_who_measured_them(reader, versions):
    ModelVersion.objects.filter(number=2).update(
        metrics={"accuracy": 0.75, "loss": 0.5, "confusion": [1, 2]},
        reported_metrics={"loss": 0.25},
        evaluation_sums={"accuracy": [60.0, 100]},
        evaluations=3,
    )
    words = words_of(page(reader, "model", versions[2].id))
    assert "accuracy 0.7500 0.6000 –" in words
    assert "confusion – – –" in words
    assert "loss 0.5000 – 0.2500" in words
    assert "3 devices evaluated it on their own data" in words


def test_a_version_that_waits_for_its_evaluator_is_asked_for_again(reader, versions):
    version = versions[2]
    version.federation.evaluator = "example:Evaluator"
    version.federation.save()
    ModelVersion.objects.filter(id=version.id).update(evaluated_at=None, metrics={})
    waiting = page(reader, "model", version.id, panel="metrics").content.decode()
    assert "data-live" in waiting
    ModelVersion.objects.filter(id=version.id).update(evaluated_at=timezone.now(), metrics={"accuracy": 1.0})
    assert "data-live" not in page(reader, "model", version.id, panel="metrics").content.decode()


@pytest.mark.parametrize(
    ("evaluator", "error", "expected"),
    [
        ("", "", "Nobody has measured it: the federation names no evaluator"),
        ("example:Evaluator", "", "The federation’s evaluator gave no metric of it"),
        ("example:Evaluator", "ValueError", "There is no metric: the evaluation failed"),
        ("", "ValueError", "There is no metric: the evaluation failed"),
    ],
)
def test_a_version_without_metrics_says_why(reader, versions, evaluator, error, expected):
    version = versions[2]
    Federation.objects.update(evaluator=evaluator)
    unmeasured = {"metrics": {}, "reported_metrics": {}, "evaluation_sums": {}, "evaluation_error": error}
    ModelVersion.objects.filter(id=version.id).update(evaluated_at=timezone.now(), **unmeasured)
    words = words_of(page(reader, "model", version.id))
    assert expected in words
    assert ("Nobody has measured it" in words) == (not evaluator and not error)


def test_only_who_may_change_models_is_offered_to_release_or_go_back(reader, versions):
    assert "/release" not in page(reader, "model", versions[1].id).content.decode()
    olga = signed_in(make_user("olga", "view_modelversion", "change_modelversion", "change_federation"))
    markup = page(olga, "model", versions[1].id).content.decode()
    assert reverse("admin:training_modelversion_release", args=(versions[1].id,)) in markup
    assert reverse("admin:training_federation_roll_back", args=(versions[1].federation_id,)) in markup


def test_the_first_version_says_that_no_enclave_signed_it(reader, versions):
    assert "No enclave signed it" in words_of(page(reader, "model", versions[0].id))


def test_a_version_that_does_not_exist_is_not_found(reader, versions):
    for number in (10**9, 2**70):
        assert page(reader, "model", number).status_code == 404


@pytest.fixture
def signed(versions):
    """Version 2 with a result that its enclave really signed, and what it says."""
    round_ = versions[2].produced_by
    pair = pqc.signature(SIGNATURE_ALGORITHM).generate()
    enclave = make_enclave(round_.id)
    enclave.result_public_key = pair.public
    enclave.save()
    parts = round_.participations.order_by("device_id")[:2]
    first, second = (part.device_id.bytes for part in parts)
    verdicts = (
        UpdateVerdict(first, b"\xab" * 64, b"c" * 32, accepted=True),
        UpdateVerdict(second, b"\xcd" * 64, None, accepted=False, reason="invalid-signature"),
    )
    for part, proof in zip(parts, verdict_proofs([verdict.encoded() for verdict in verdicts]), strict=True):
        Participation.objects.filter(id=part.id).update(verdict_proof=encode(proof.to_map()))
    result = RoundResult(
        round_id=round_.id.bytes, federation_id=round_.federation_id.bytes, enclave_key_id=bytes(enclave.key_id),
        base_model_digest=bytes(versions[1].digest), model_digest=bytes(versions[2].digest), model_bytes=100,
        rule="weighted-mean", policy_digest=b"p" * 64, roster_digest=b"o" * 64, sample_total=400, carried_in=bytes(64),
        carried_out=bytes(64), **commitment_to(verdicts),
    )  # fmt: skip
    return result, Signer(SIGNATURE_ALGORITHM, pair.private, pair.public)


def keep(versions, result, signer):
    ModelVersion.objects.filter(id=versions[2].id).update(provenance=sign_result(result, signer))


def test_provenance_names_the_rule_the_inputs_and_the_log_once_the_signature_holds(reader, versions, signed):
    keep(versions, *signed)
    words = words_of(page(reader, "model", versions[2].id))
    assert "The enclave’s signature holds" in words
    assert "Rule weighted-mean" in words
    assert "1 accepted, 1 rejected; 400 samples" in words
    assert "abababababab…" in words
    assert "not found here: it is not sequenced yet, or what it tells is erased" in words


def test_provenance_names_the_entry_until_what_it_tells_is_erased(reader, versions, signed):
    keep(versions, *signed)
    made = {"federation_id": str(versions[2].federation_id), "version": 2, "federation": "digits", "round_number": 2}
    with transaction.atomic():
        record_event("round.completed", actor="enclave", payload=made | {"accepted": 3, "rejected": 1}, now=NOW)
    assert read_provenance(ModelVersion.objects.get(id=versions[2].id)).entry is None
    sequence_log(NOW)
    entry = Entry.objects.get(event__payload=made | {"accepted": 3, "rejected": 1})
    assert f"entry {entry.index}" in words_of(page(reader, "model", versions[2].id))
    erase_disclosures([entry.event_id], reason="its time is over", actor="system", now=NOW)
    assert "or what it tells is erased" in words_of(page(reader, "model", versions[2].id))


def test_a_result_about_another_model_or_by_another_key_is_said_not_to_hold(versions, signed):
    result, signer = signed
    keep(versions, dataclasses.replace(result, model_digest=b"x" * 32), signer)
    assert "about another model" in read_provenance(ModelVersion.objects.get(id=versions[2].id)).fault
    pair = pqc.signature(SIGNATURE_ALGORITHM).generate()
    keep(versions, result, Signer(SIGNATURE_ALGORITHM, pair.private, pair.public))
    assert "does not hold" in read_provenance(ModelVersion.objects.get(id=versions[2].id)).fault
    keep(versions, dataclasses.replace(result, enclave_key_id=b"z" * 32), signer)
    assert "not known here" in read_provenance(ModelVersion.objects.get(id=versions[2].id)).fault


def test_verdicts_that_were_changed_are_said_apart_from_the_signature(reader, versions, signed):
    result, signer = signed
    keep(versions, dataclasses.replace(result, verdicts_root=bytes(32)), signer)
    words = words_of(page(reader, "model", versions[2].id))
    assert "The enclave’s signature holds" in words
    assert "The verdicts kept here are not those that were signed" in words
    keep(versions, result, signer)
    first = versions[2].produced_by.participations.order_by("device_id").first()
    Participation.objects.filter(id=first.id).update(verdict_proof=None)
    found = read_provenance(ModelVersion.objects.get(id=versions[2].id))
    assert (found.fault, found.verdicts) == ("", ())
    assert "missing here" in found.verdicts_fault


def test_two_versions_are_compared_by_metrics_devices_and_rounds(reader, versions):
    words = words_of(page(reader, "model-comparison", a=versions[1].id, b=versions[2].id))
    assert "accuracy on the server’s data 0.5000 0.7500 +0.2500" in words
    assert "Devices whose updates are in it 3 4 3 in both" in words
    assert "1 round apart" in words
    backwards = words_of(page(reader, "model-comparison", a=versions[2].id, b=versions[0].id))
    assert "2 rounds apart" in backwards


def test_a_model_that_was_restored_is_the_very_same(reader, versions):
    for version in versions[1:]:
        ModelVersion.objects.filter(id=version.id).update(provenance=b"signed")
    release_version(versions[2].id, actor=ACTOR, now=NOW)
    roll_back(
        versions[1].federation_id, number=1, reason="worse", continue_training=True, actor=ACTOR, now=NOW
    )  # fmt: skip
    restored = ModelVersion.objects.get(restored_from=versions[1])
    words = words_of(page(reader, "model-comparison", a=versions[1].id, b=restored.id))
    assert "Both are the very same model" in words
    assert "a roll back" in words
    assert "going back to version 1" in words_of(page(reader, "model", restored.id))


@pytest.mark.parametrize("query", [{}, {"a": "1"}, {"a": "x", "b": "²"}, {"a": "9" * 30, "b": "-1"}])
def test_a_comparison_of_what_does_not_exist_is_a_sentence(reader, query):
    assert "one of these does not exist" in words_of(page(reader, "model-comparison", **query))


def test_versions_of_two_federations_are_not_compared(reader, versions):
    other = make_federation("letters").current_version
    words = words_of(page(reader, "model-comparison", a=other.id, b=versions[0].id))
    assert "two federations" in words


def test_no_screen_shows_a_content_key(reader, versions):
    keys = [bytes(version.wrapped_content_key).hex()[:24] for version in ModelVersion.objects.all()]
    for answer in (page(reader, "models"), page(reader, "model", versions[2].id)):
        assert not [key for key in keys if key in answer.content.decode()]


def test_the_query_count_of_the_list_does_not_grow(reader, versions, django_assert_max_num_queries):
    for name in ("letters", "signs"):
        federation = make_federation(name)
        make_completed_round(federation, rejected="", accuracy=0.5)
    assert Participation.objects.count() > 0
    assert Entry.objects.count() == 0
    with django_assert_max_num_queries(9):
        page(reader, "models")
