from django.apps import AppConfig


class EnclaveConfig(AppConfig):
    """Enclave instances, their evidence, and the courier that feeds the sealed process."""

    name = "enclave"
    label = "enclave"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from audit.kinds import register_kind

        register_kind("enclave.prepared", "Enclave {key_id} prepared for round {round_id}, tier {tier}")
        register_kind("enclave.retired", "Keys of the enclave of round {round_id} destroyed")
