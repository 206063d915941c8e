from django.apps import AppConfig


class EnclaveConfig(AppConfig):
    """Enclave instances, their evidence, and the courier that feeds the sealed process."""

    name = "enclave"
    label = "enclave"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from audit.kinds import register_kind
        from enclave.models import EnclaveInstance
        from keyring.columns import register_wrapped_elsewhere

        register_wrapped_elsewhere(EnclaveInstance, "wrapped_keys", "the sealing key of the enclave host")
        register_kind("enclave.prepared", "Enclave {key_id} prepared for round {round_id}, tier {tier}")
        register_kind("enclave.retired", "Keys of the enclave of round {round_id} destroyed")
