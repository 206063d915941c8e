from django.apps import AppConfig


class SessionsConfig(AppConfig):
    """Handshakes, key epochs and replay state of devices; `sessions` is Django's own label."""

    name = "sessions"
    label = "device_sessions"
    verbose_name = "Device sessions"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from audit.kinds import register_kind

        register_kind("session.opened", "Device {device} opened session {session_id}")
        register_kind("session.ended", "Session {session_id} of {device} ended: {reason}")
        register_kind("sessions.ended", "{count} sessions of {device} ended: {reason}")
        register_kind("session.refused", "Handshake of {device} refused: {reason}")
        register_kind("request.refused", "Sealed request of {device} refused: {reason}")
