"""The keyring app."""

from django.apps import AppConfig


class KeyringConfig(AppConfig):
    """Keys the server signs with, and the envelope under which secrets rest in the database."""

    name = "keyring"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Register the system checks."""
        from keyring import checks  # noqa: F401
