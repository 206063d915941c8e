from django.apps import AppConfig


class OperatorApiConfig(AppConfig):
    """API keys and the endpoints that take them."""

    name = "operator_api"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from audit.kinds import register_kind
        from operator_access.services.people import when_kept_out
        from operator_api.services import revoke_keys_of

        register_kind("api_key.created", "API key {name} created for {scopes}, until {expires_at}")
        register_kind("api_key.refused", "API key refused: {reason}")
        register_kind("api_key.revoked", "API key {name} revoked: {reason}")
        when_kept_out(revoke_keys_of)
