"""The keyring app."""

from django.apps import AppConfig


class KeyringConfig(AppConfig):
    """Keys the server signs with, and the envelope under which secrets rest in the database."""

    name = "keyring"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Register the system checks and the wrapped columns."""
        from keyring import checks  # noqa: F401
        from keyring.columns import Scope, register_wrapped_column, register_wrapped_elsewhere
        from keyring.models import DataKey, ServerKey

        register_wrapped_column(ServerKey, "wrapped_private", scope=Scope.SERVER_KEYS)
        register_wrapped_elsewhere(DataKey, "wrapped_key", "the KEK")
        register_wrapped_elsewhere(DataKey, "wrapped_for_escrow", "the backup KEK of an escrow")
