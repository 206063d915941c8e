"""The terms of rules: made from the defaults, tuned by operators."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction

from audit.services import record_event
from monitor.models import RuleSetting
from monitor.rules import RULES, Rule
from monitor.terms import Action, Severity, Terms
from qflare_protocol.errors import Refusal

LONGEST_WINDOW = timedelta(days=365)


def make_settings(now: datetime) -> None:
    """Give every rule that has none a setting, with its default terms."""
    known = set(RuleSetting.objects.values_list("rule", flat=True))
    missing = [_default_setting(rule, now) for rule in RULES.values() if rule.name not in known]
    RuleSetting.objects.bulk_create(missing, ignore_conflicts=True)


def enabled_rules() -> list[tuple[Rule, Terms]]:
    """Return the rules that are enabled, with their terms."""
    settings = RuleSetting.objects.filter(enabled=True, rule__in=RULES)
    return [(setting.definition, setting.terms) for setting in settings]


def tune_rule(name: str, terms: Terms, *, enabled: bool, reason: str, actor: str, now: datetime) -> RuleSetting:
    """Change a rule's terms. They hold for what is found from now on.

    Raises `Refusal`: "not-found", "conflict" for terms that the rule cannot have, or without a reason.
    """
    if name not in RULES:
        raise Refusal("not-found", "There is no such rule.")
    _check(RULES[name], terms, reason)
    make_settings(now)
    with transaction.atomic():
        setting = RuleSetting.objects.select_for_update(no_key=True).get(rule=name)
        before = _as_payload(setting)
        _take(setting, terms)
        setting.enabled, setting.changed_at, setting.changed_by = enabled, now, actor
        setting.save()
        payload = {"rule": name, "before": before, "after": _as_payload(setting), "reason": reason.strip()}
        record_event("rule.changed", actor=actor, payload=payload, now=now)
    return setting


def _check(rule: Rule, terms: Terms, reason: str) -> None:
    if not reason.strip():
        raise Refusal("conflict", "State the reason for this change; it is kept in the audit log.")
    if terms.threshold <= 0 or not timedelta(0) < terms.window <= LONGEST_WINDOW or terms.cool_down < timedelta(0):
        raise Refusal("conflict", "Threshold and window must be positive, and the window a year at most.")
    check_responses(rule, terms.responses)


def check_responses(rule: Rule, responses: Sequence[Action]) -> None:
    """Refuse (`conflict`) a response that the rule's policy may not name."""
    for response in responses:
        if response not in rule.responses:
            allowed = ", ".join(rule.responses)
            raise Refusal("conflict", f"The rule {rule.name} cannot answer with {response}; it can with: {allowed}.")


def _default_setting(rule: Rule, now: datetime) -> RuleSetting:
    setting = RuleSetting(rule=rule.name, changed_at=now, changed_by="system")
    _take(setting, rule.defaults)
    return setting


def _take(setting: RuleSetting, terms: Terms) -> None:
    setting.threshold = terms.threshold
    setting.window_seconds = round(terms.window.total_seconds())
    setting.severity = Severity(terms.severity)
    setting.responses = [str(Action(response)) for response in terms.responses]
    setting.cool_down_seconds = round(terms.cool_down.total_seconds())


def _as_payload(setting: RuleSetting) -> dict[str, Any]:
    return {
        "enabled": setting.enabled,
        "threshold": setting.threshold,
        "window_seconds": setting.window_seconds,
        "severity": setting.severity,
        "responses": setting.responses,
        "cool_down_seconds": setting.cool_down_seconds,
    }
