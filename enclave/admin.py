"""The enclaves that served rounds: their evidence and what the kernel granted them."""

from django.contrib import admin

from enclave.models import EnclaveInstance
from operator_admin.base import ReadOnlyAdmin
from operator_admin.columns import hex_column, live_or_retired, state_column, state_label
from operator_admin.decorators import display
from qflare_protocol.attestation.limits import left_open
from qflare_protocol.attestation.pins import REQUIRED_REGISTERS
from qflare_protocol.attestation.trust_vector import tier_of
from qflare_protocol.sealing_tier import tier_of as sealing_tier_of


@admin.register(EnclaveInstance)
class EnclaveInstanceAdmin(ReadOnlyAdmin):
    """Public keys and evidence; the wrapped private keys are never shown."""

    state = state_column(live_or_retired)
    short_key_id = hex_column("key_id", "Key id")
    short_measurement = hex_column("measurement", "Measurement")
    short_policy_digest = hex_column("policy_digest", "Policy digest")
    short_attestation_key = hex_column("attestation_key", "Attestation key")

    list_display = (
        "short_key_id", "tier_label", "sealing", "attester", "short_measurement", "state", "prepared_at", "retired_at",
    )  # fmt: skip
    list_filter = ("tier", "attester")
    search_fields = ("round_id",)
    date_hierarchy = "prepared_at"
    fields = (
        "round_id", "range_index", "range_count", "attester",
        "tier_label", "tier_reasons", "aspects", "not_protected_against", "platform_pin",
        "sealing", "sealing_not_against", "granted", "refused",
        "short_key_id", "short_measurement", "short_policy_digest", "short_attestation_key",
        "state", "prepared_at", "retired_at",
    )  # fmt: skip
    readonly_fields = (
        "tier_label", "tier_reasons", "aspects", "not_protected_against", "platform_pin",
        "sealing", "sealing_not_against", "granted", "refused",
        "short_key_id", "short_measurement", "short_policy_digest", "short_attestation_key", "state",
    )  # fmt: skip

    @display(description="Tier", ordering="tier")
    def tier_label(self, instance: EnclaveInstance) -> str:
        """The appraisal in word and colour."""
        return state_label(instance.tier)

    @display(description="Why no higher tier")
    def tier_reasons(self, instance: EnclaveInstance) -> str:
        """What lowered the tier, without what evidence of this kind always leaves open."""
        always = left_open(instance.attester)
        return " ".join(reason for reason in instance.appraisal.get("reasons", ()) if reason not in always) or "nothing"

    @display(description="Trustworthiness")
    def aspects(self, instance: EnclaveInstance) -> str:
        """The vector of the appraisal, aspect by aspect; those without a claim are left out."""
        vector = instance.appraisal.get("ear.trustworthiness-vector", {})
        return ", ".join(f"{name}: {tier_of(value)}" for name, value in vector.items() if value) or "no claim"

    @display(description="Platform, for devices to pin")
    def platform_pin(self, instance: EnclaveInstance) -> str:
        """The line that `qflare-edge trust --platform` takes; software evidence has none."""
        names = REQUIRED_REGISTERS.get(instance.attester, ())
        registers = instance.appraisal.get("registers", {})
        return "/".join([instance.attester, *(f"{name}={registers.get(name)}" for name in names)]) if names else "none"

    @display(description="Not protected against")
    def not_protected_against(self, instance: EnclaveInstance) -> str:
        """What evidence of this kind leaves open."""
        return " ".join(left_open(instance.attester))

    @display(description="Sealing tier")
    def sealing(self, instance: EnclaveInstance) -> str:
        """The tier that the protections add up to."""
        return sealing_tier_of(instance.protections).name

    @display(description="Sealing does not protect against")
    def sealing_not_against(self, instance: EnclaveInstance) -> str:
        """What that tier leaves open."""
        return sealing_tier_of(instance.protections).not_protected_against

    @display(description="Protections granted")
    def granted(self, instance: EnclaveInstance) -> str:
        """The protections that the kernel gave the sealed process."""
        return ", ".join(sorted(name for name, held in instance.protections.items() if held)) or "none"

    @display(description="Protections refused")
    def refused(self, instance: EnclaveInstance) -> str:
        """The protections that the kernel did not give."""
        return ", ".join(sorted(name for name, held in instance.protections.items() if not held)) or "none"
