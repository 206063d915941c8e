from django.apps import AppConfig


class SessionsConfig(AppConfig):
    """Handshakes, key epochs and replay state of devices; `sessions` is Django's own label."""

    name = "sessions"
    label = "device_sessions"
    verbose_name = "Device sessions"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from audit.kinds import register_kind
        from keyring.columns import Scope, register_wrapped_column
        from sessions import checks  # noqa: F401 - registers the system checks
        from sessions.models import KeyRotationAttempt, ReservedQkdKey, Session

        register_wrapped_column(Session, "wrapped_secret", scope=Scope.SESSIONS)
        register_wrapped_column(Session, "wrapped_offer", scope=Scope.SESSIONS)
        register_wrapped_column(KeyRotationAttempt, "wrapped_state", scope=Scope.SESSIONS)
        register_wrapped_column(ReservedQkdKey, "wrapped_key", scope=Scope.SESSIONS)
        register_kind("session.opened", "Device {device} opened session {session_id}")
        register_kind("session.ended", "Session {session_id} of {device} ended: {reason}")
        register_kind("sessions.ended", "Sessions of {device} ended ({count}): {reason}")
        register_kind("sessions.archived", "{count} ended sessions archived in {file} and deleted")
        register_kind("session.refused", "Handshake of {device} refused: {reason}")
        register_kind("session.rekeyed", "Session {session_id} of {device} was rekeyed to generation {generation}")
        register_kind("qkd_key.reserved", "QKD key {key_id} reserved for the next handshake of {device}")
        register_kind("identity_key.rotated", "Server identity key {old} replaced by {new} ({algorithm}): {reason}")
        register_kind("request.refused", "Sealed request of {device} refused: {reason}")
        register_kind("qkd_policy.changed", 'QKD for device group "{group}" changed from {previous} to {policy}')
