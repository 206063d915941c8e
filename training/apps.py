from django.apps import AppConfig

_KINDS = {
    "federation.created": "Federation {federation} created",
    "federation.scheduled": "Federation {federation} opens rounds {when}",
    "federation.paused": "Federation {federation} paused",
    "federation.resumed": "Federation {federation} resumed",
    "federation.finished": "Federation {federation} finished after {rounds} rounds: {reason}",
    "round.created": "Round {round_number} of {federation} created, {invited} devices invited",
    "round.opened": "Round {round_number} of {federation} opened",
    "round.closed": "Round {round_number} of {federation} closed with {submissions} updates",
    "round.completed": "Round {round_number} of {federation} completed: {accepted} accepted, {rejected} rejected",
    "federation.carried_rows_lost": "{federation} begins without the {rows} rows it carried: {reason}",
    "round.restarted": "Round {round_number} of {federation} began anew: {reason}",
    "round.failed": "Round {round_number} of {federation} failed: {reason}",
    "round.cancelled": "Round {round_number} of {federation} cancelled: {reason}",
    "update.received": "Update of {device} received in round {round_number} of {federation}",
    "round.extended": "Round {round_number} of {federation} waits {seconds} s longer: {reason}",
    "update.quarantined": "Update of {device} taken out of round {round_number} of {federation}: {reason}",
    "update.failed": "Training of {device} failed in round {round_number} of {federation}: {reason}",
    "update.rejected": "Update of {device} rejected in round {round_number} of {federation}: {reason}",
    "privacy.released": "Release {privacy_release} of {federation} under differential privacy: "
    "epsilon {epsilon_spent} spent at delta {delta}",
    "model.published": "Version {version} of {federation} published",
    "model.released": "Version {version} of {federation} released",
    "model.rolled_back": "{federation} went back from version {instead_of} to {version}: {reason}",
    "model.restored": "Version {version} of {federation} is version {restored_from} once more",
    "model.evaluated_by_device": "Version {version} of {federation} evaluated by {device} on {sample_count} samples",
    "model.evaluated": "Version {version} of {federation} evaluated",
}


class TrainingConfig(AppConfig):
    """Federations, rounds, updates, model versions and schedules."""

    name = "training"
    label = "training"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from audit.exporters import register_exporter
        from audit.kinds import register_kind
        from keyring.columns import Scope, register_wrapped_column
        from training import checks  # noqa: F401 - registers them
        from training.models import ModelVersion
        from training.provenance_export import export_results

        register_wrapped_column(
            ModelVersion,
            "wrapped_content_key",
            scope=Scope.MODELS,
            bound_to=lambda version: ModelVersion.envelope(version.federation_id, version.number)["primary_key"],
        )
        for kind, sentence in _KINDS.items():
            register_kind(kind, sentence)
        register_exporter(export_results)
