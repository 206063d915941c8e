"""Rules are tuned within what they can be, and the log tells how."""

from dataclasses import replace
from datetime import timedelta

import pytest
from django.db import IntegrityError, transaction

from audit.models import Event
from monitor.models import RuleSetting
from monitor.rules import RULES
from monitor.services.tuning import enabled_rules, make_settings, tune_rule
from monitor.terms import Action, Severity
from qflare_protocol.errors import Refusal
from tests.monitor.conftest import NOON, OLGA

pytestmark = pytest.mark.django_db

TERMS = RULES["replays"].defaults


def tune(rule="replays", terms=TERMS, *, enabled=True, reason="too many alarms"):
    return tune_rule(rule, terms, enabled=enabled, reason=reason, actor=OLGA, now=NOON)


def test_every_rule_begins_with_its_defaults():
    make_settings(NOON)
    make_settings(NOON)
    assert {rule.name: terms for rule, terms in enabled_rules()} == {name: RULES[name].defaults for name in RULES}


def test_tuned_terms_hold_and_the_log_has_them_before_and_after():
    terms = replace(TERMS, threshold=20, severity=Severity.INFO, window=timedelta(hours=2), responses=())
    setting = tune(terms=terms)
    assert (setting.terms, setting.changed_by) == (terms, OLGA)
    payload = Event.objects.get(kind="rule.changed").payload
    assert (payload["before"]["threshold"], payload["after"]["threshold"]) == (3, 20)
    assert (payload["after"]["responses"], payload["reason"]) == ([], "too many alarms")


def test_a_rule_is_switched_off():
    tune(enabled=False)
    assert "replays" not in {rule.name for rule, _ in enabled_rules()}


@pytest.mark.parametrize(
    "change",
    [
        {"threshold": 0},
        {"window": timedelta(0)},
        {"window": timedelta(days=366)},
        {"cool_down": timedelta(seconds=-1)},
        {"responses": (Action.SUSPEND_DEVICE,)},
    ],
    ids=str,
)
def test_terms_that_a_rule_cannot_have_are_refused(change):
    make_settings(NOON)
    with pytest.raises(Refusal, match="conflict"):
        tune(terms=replace(TERMS, **change))
    assert RuleSetting.objects.get(rule="replays").terms == TERMS
    assert not Event.objects.exists()


def test_tuning_needs_a_reason_and_a_rule():
    with pytest.raises(Refusal, match="State the reason"):
        tune(reason=" ")
    with pytest.raises(Refusal, match="not-found"):
        tune("no-such-rule")


@pytest.mark.parametrize("change", [{"threshold": 0}, {"window_seconds": 0}, {"severity": "loud"}], ids=str)
def test_the_database_refuses_such_terms_too(change):
    make_settings(NOON)
    with pytest.raises(IntegrityError), transaction.atomic():
        RuleSetting.objects.update(**change)
