from django.apps import AppConfig


class OperatorAccessConfig(AppConfig):
    """Roles, second factors, approvals."""

    name = "operator_access"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Register checks and events, and the column that the keyring wraps."""
        from keyring.columns import Scope, register_wrapped_column
        from operator_access import checks  # noqa: F401 - importing registers them
        from operator_access.asking import write_down
        from operator_access.escrow_actions import register_escrow_actions
        from operator_access.models import FactorSecret
        from operator_access.services.approvals import register_approval_events
        from operator_access.services.people import register_people_events
        from operator_access.services.second_factor import register_second_factor_events
        from operator_admin.actions import use_asker

        # A lost secret is enrolled anew: not worth an escrow.
        register_wrapped_column(
            FactorSecret, FactorSecret.COLUMN, scope=Scope.SESSIONS, bound_to=lambda row: row.bound_to
        )
        register_second_factor_events()
        register_people_events()
        register_approval_events()
        register_escrow_actions()
        use_asker(write_down)
