from django.apps import AppConfig


class OperatorApiConfig(AppConfig):
    """API keys and the endpoints that take them."""

    name = "operator_api"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from audit.kinds import register_kind

        register_kind("api_key.created", "API key {name} created for {scopes}, until {expires_at}")
        register_kind("api_key.refused", "API key refused: {reason}")
        register_kind("api_key.revoked", "API key {name} revoked: {reason}")
