"""Tokens are for suites in use; a device enrols with each of them, and the body limit follows from them."""

import pytest
from django.utils import timezone

from devices.models import Device
from edge_client.enrolment import enroll_device
from enrollment.forms import IssueTokensForm
from enrollment.services import begin_limit, issue_token, issue_tokens
from qflare_protocol.errors import Refusal
from qflare_protocol.pqc import registry
from qflare_protocol.suites import DEFAULT_SUITES, SUITES, available_suites
from tests.people import OPERATOR, SERVER, DjangoHttp, assert_refused

pytestmark = pytest.mark.django_db

OPTIONAL = pytest.mark.skipif("QF1-S" not in available_suites(), reason="no engine here has SLH-DSA")
CODES = pytest.mark.skipif(
    registry.failure_of("Classic-McEliece-6960119") is not None, reason="no engine here has Classic McEliece"
)


def issue(**options):
    return issue_token(actor=OPERATOR, now=timezone.now(), **options)


@pytest.mark.parametrize(
    "suite",
    [*DEFAULT_SUITES, pytest.param("QF1-S", marks=OPTIONAL), pytest.param("QF1-M", marks=CODES)],
)
def test_a_device_enrols_with_every_suite(suite, settings):
    settings.QFLARE_SUITES = list(SUITES)
    identity = enroll_device(DjangoHttp(), SERVER, issue(suite=suite).text, "carol", suite=suite)
    device = Device.objects.get()
    assert (device.suite, device.state) == (suite, "active")
    assert identity.keys.suite == suite
    assert identity.identity.algorithm == SUITES[suite].signature


def test_a_token_without_a_suite_is_for_the_default_suite_of_the_site(settings):
    settings.QFLARE_DEFAULT_SUITE = "QF1-K1024"
    assert issue().row.suite == "QF1-K1024"
    assert issue(suite="QF1-F976").row.suite == "QF1-F976"


@pytest.mark.parametrize("suite", ["QF1-M", "QF1-X", "QF1-F640"])
def test_no_token_is_issued_for_a_suite_that_is_not_in_use(suite, settings):
    settings.QFLARE_SUITES = ["QF1-K1024", "QF1-F976"]
    with pytest.raises(Refusal) as refused:
        issue_tokens(1, actor=OPERATOR, now=timezone.now(), suite=suite)
    assert refused.value.code == "suite-refused"
    assert "QF1-K1024, QF1-F976" in refused.value.detail


def test_a_token_for_a_suite_that_went_out_of_use_is_refused(settings):
    token = issue(suite="QF1-K1024")
    settings.QFLARE_SUITES = ["QF1-F976"]
    with pytest.raises(Refusal, match="not in use here any more"):
        enroll_device(DjangoHttp(), SERVER, token.text, "carol", suite="QF1-K1024")
    assert not Device.objects.exists()


def test_the_form_offers_the_suites_in_use_and_begins_with_the_default(settings):
    settings.QFLARE_SUITES, settings.QFLARE_DEFAULT_SUITE = ["QF1-K1024", "QF1-F976"], "QF1-F976"
    form = IssueTokensForm()
    assert [name for name, _ in form.fields["suite"].choices] == ["QF1-K1024", "QF1-F976"]
    assert form.get_initial_for_field(form.fields["suite"], "suite") == "QF1-F976"


def test_a_body_larger_than_the_suites_in_use_need_is_refused_before_it_is_read(mallory, settings):
    settings.QFLARE_SUITES = list(DEFAULT_SUITES)
    assert begin_limit() == 64 * 1024
    assert_refused(mallory.post_cbor("/api/enroll", {"begin": bytes(65 * 1024)}), "message-too-large")


def test_the_limit_grows_with_a_suite_in_use_that_needs_it_and_no_further(mallory, settings):
    settings.QFLARE_SUITES = ["QF1-F640", "QF1-M"]
    assert begin_limit() == 1_062_730
    assert_refused(mallory.post_cbor("/api/enroll", {"begin": bytes(1_050_000)}), "malformed-message")
    assert_refused(mallory.post_cbor("/api/enroll", {"begin": bytes(1_062_730)}), "message-too-large")
