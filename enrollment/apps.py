from django.apps import AppConfig


class EnrollmentConfig(AppConfig):
    """One-time tokens and the exchange that turns a token into a device."""

    name = "enrollment"
    label = "enrollment"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from audit.kinds import register_kind
        from enrollment.models import EnrolmentAttempt
        from keyring.columns import Scope, register_wrapped_column

        register_wrapped_column(EnrolmentAttempt, "wrapped_state", scope=Scope.SESSIONS)
        register_kind("token.issued", "Enrolment token issued for {device}")
        register_kind("token.revoked", "Enrolment token {token_id} revoked")
        register_kind("token.used", "Enrolment token used by device {device}")
        register_kind("token.refused", "Enrolment token refused: {reason}")
