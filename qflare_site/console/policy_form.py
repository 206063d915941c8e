"""The policy editor: every part there is, with what it does and the ranges of its numbers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django import forms
from django.forms import BoundField

from qflare_protocol.aggregation_policy import AggregationPolicy, Stage
from qflare_protocol.sealing_tier import SEALING_TIERS
from qflare_site.console.policy import KINDS, PartView, parts_of

STEPS_OFFERED = 3
SINGLE = ("rule", "server_optimiser", "noise")
IN_ORDER = {"filters": "Filter", "pre_aggregation": "Pre-aggregation"}
"""The members of a policy that are lists, and what each of their steps is called."""


@dataclass(frozen=True)
class PartFields:
    """One part in the editor, with the fields of its numbers."""

    part: PartView
    numbers: list[BoundField]


class PolicyForm(forms.Form):
    """An aggregation policy as an operator states it; what it does not ask for stays as in the policy begun with."""

    minimum_updates = forms.IntegerField(
        min_value=3, max_value=1_000_000, help_text="Fewer accepted updates than this are never aggregated; at least 3."
    )
    tolerated_fraction = forms.FloatField(
        min_value=0,
        max_value=0.499,
        help_text="Of a round's updates, how many may come from attackers. A pipeline that stands fewer is refused.",
    )
    required_tier = forms.ChoiceField(
        choices=[(tier.name, tier.name) for tier in SEALING_TIERS],
        help_text="How well the process must be sealed on its host; see manage.py enclave_status.",
    )

    def __init__(self, *args: Any, begun_with: AggregationPolicy, **options: Any) -> None:
        self.begun_with = begun_with
        super().__init__(*args, initial=_initial(begun_with), **options)
        for kind, title in IN_ORDER.items():
            choices = [("", "none"), *_choices(kind)]
            for place in self._places(kind):
                self.fields[f"{kind}_{place}"] = forms.ChoiceField(
                    choices=choices, required=False, label=f"{title}, step {place}"
                )
        for kind in SINGLE:
            self.fields[kind] = forms.ChoiceField(choices=_choices(kind), label=KINDS[kind][0])
        for kind in KINDS:
            for part in parts_of(kind):
                self.fields |= {_field_name(kind, part.name, one.name): _number(one) for one in part.parameters}

    def _places(self, kind: str) -> range:
        """Return the numbers of the steps that are offered: those of the policy begun with, three at least."""
        return range(1, max(STEPS_OFFERED, len(getattr(self.begun_with, kind))) + 1)

    @property
    def cannot_show(self) -> bool:
        """Whether the policy begun with names a part twice in one list: the editor has one set of numbers for each."""
        names = [[stage.name for stage in getattr(self.begun_with, kind)] for kind in IN_ORDER]
        return any(len(set(one)) < len(one) for one in names)

    def clean(self) -> dict[str, Any]:
        """Refuse a part that is named twice."""
        cleaned: dict[str, Any] = super().clean() or {}
        for kind, title in IN_ORDER.items():
            named = [name for place in self._places(kind) if (name := cleaned.get(f"{kind}_{place}"))]
            if len(set(named)) < len(named):
                raise forms.ValidationError(f"{title}: each part is named once here.")
        return cleaned

    def policy(self) -> AggregationPolicy:
        """Return the policy of a valid form. Raises `Refusal("policy-refused")`."""
        stated = {name: self.cleaned_data[name] for name in ("minimum_updates", "tolerated_fraction", "required_tier")}
        for kind in IN_ORDER:
            names = (self.cleaned_data[f"{kind}_{place}"] for place in self._places(kind))
            stated[kind] = [self._stage(kind, name) for name in names if name]
        stated |= {kind: self._stage(kind, self.cleaned_data[kind]) for kind in SINGLE}
        return AggregationPolicy.from_map(self.begun_with.to_map() | stated)

    def _stage(self, kind: str, name: str) -> dict[str, Any]:
        part = next(one for one in parts_of(kind) if one.name == name)
        numbers = {one.name: self.cleaned_data[_field_name(kind, name, one.name)] for one in part.parameters}
        return Stage(name, {key: value for key, value in numbers.items() if value is not None}).to_map()

    def parts(self, kind: str) -> list[PartFields]:
        """Return the parts of a kind with the fields of their numbers."""
        return [
            PartFields(part, [self[_field_name(kind, part.name, one.name)] for one in part.parameters])
            for part in parts_of(kind)
        ]

    def sections(self) -> list[tuple[str, list[BoundField], list[PartFields]]]:
        """Return title, choosing fields and explained parts of every kind, in the order in which they run."""
        choosing = {kind: [self[f"{kind}_{place}"] for place in self._places(kind)] for kind in IN_ORDER}
        choosing |= {kind: [self[kind]] for kind in SINGLE}
        return [(title, choosing[kind], self.parts(kind)) for kind, (title, _) in KINDS.items()]


def _initial(policy: AggregationPolicy) -> Mapping[str, Any]:
    names = ("minimum_updates", "tolerated_fraction", "required_tier")
    initial: dict[str, Any] = {name: getattr(policy, name) for name in names}
    for kind in IN_ORDER:
        initial |= {f"{kind}_{place}": stage.name for place, stage in enumerate(getattr(policy, kind), start=1)}
    initial |= {kind: getattr(policy, kind).name for kind in SINGLE}
    for kind in KINDS:
        value = getattr(policy, kind)
        for stage in value if isinstance(value, tuple) else (value,):
            initial |= {_field_name(kind, stage.name, name): given for name, given in stage.parameters.items()}
    return initial


def _choices(kind: str) -> list[tuple[str, str]]:
    return [(part.name, part.name) for part in parts_of(kind)]


def _field_name(kind: str, part: str, parameter: str) -> str:
    return f"{kind}:{part}:{parameter}"


def _number(parameter: Any) -> forms.Field:
    made = forms.IntegerField if parameter.whole else forms.FloatField
    hint = f"{parameter.low:g} to {parameter.high:g}; {parameter.default:g} where empty"
    return made(
        label=parameter.name.replace("_", " "),
        required=False,
        min_value=parameter.low,
        max_value=parameter.high,
        help_text=hint,
        widget=forms.NumberInput({"placeholder": f"{parameter.default:g}", "step": "1" if parameter.whole else "any"}),
    )
