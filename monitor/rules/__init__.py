"""Every rule there is, by name. A new one is one object, named in one of the tuples."""

from monitor.rules.definition import Finding, Rule
from monitor.rules.drift import DRIFT_RULE
from monitor.rules.events import EVENT_RULES
from monitor.rules.silence import SILENCE_RULES

__all__ = ["RULES", "Finding", "Rule"]

RULES: dict[str, Rule] = {rule.name: rule for rule in (*EVENT_RULES, DRIFT_RULE, *SILENCE_RULES)}
