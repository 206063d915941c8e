"""The audit app."""

from django.apps import AppConfig


class AuditConfig(AppConfig):
    """Events of all apps, sequenced into a log that cannot be rewritten unseen."""

    name = "audit"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Register the kinds of event that the log itself records."""
        from audit.kinds import register_kind
        from audit.services import record_made_key
        from keyring.announcements import listen

        register_kind("log.fork_reported", "Device {device} has seen another log of {size} entries than this one")
        register_kind(
            "log.anchor_missed", "Anchor {anchor} missed: no receipt for {size} entries in {attempts} attempts"
        )
        register_kind("log.verified", "Log of {entries} entries and {checkpoints} checkpoints verified: it holds")
        register_kind("log.exported", "Log of {entries} entries exported")
        register_kind("log.damaged", "Log verified: it does NOT hold. {detail}")
        register_kind("log.key_rotated", "Log key {old} replaced by {new}: {reason}")
        register_kind("server_key.made", "Server key {key_id} made for {purpose}: {name}")
        listen(record_made_key)
        register_kind("log.disclosures_erased", "What {count} entries tell was erased: {reason}")
