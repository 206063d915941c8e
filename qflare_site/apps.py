from django.apps import AppConfig


class SiteConfig(AppConfig):
    """The site itself: process heartbeats, health, operator console and management commands."""

    name = "qflare_site"
    label = "qflare_site"
    verbose_name = "Site"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Register the site's system checks."""
        from qflare_site import checks  # noqa: F401 - importing registers them
