from django.apps import AppConfig
from django.conf import settings


class SiteConfig(AppConfig):
    """The site itself: process heartbeats, health, operator console and management commands."""

    name = "qflare_site"
    label = "qflare_site"
    verbose_name = "Site"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Register the site's system checks, and the events of the keyring, which lies below the log."""
        from audit.kinds import register_kind
        from qflare_protocol.pqc.registry import parse_engines, use_engines
        from qflare_site import checks, task_failures  # noqa: F401 - importing registers them
        from qflare_site.operator_events import register_operator_events

        if settings.QFLARE_OTLP_ENDPOINT:
            from qflare_site.tracing import begin_tracing

            begin_tracing(settings.QFLARE_OTLP_ENDPOINT)
        use_engines(parse_engines(settings.QFLARE_PQC_ENGINES))

        register_operator_events()
        register_kind("site.backed_up", "Backup {backup_id} taken, sealed to {recipients}")
        register_kind("site.restored", "This site was restored from backup {backup_id} of {taken_at}")
        register_kind("rate.exceeded", "Requests of {caller} exceed the limit of {scope}, {rate}")
        register_kind("kek.rotated", "KEK {kek_id} ({provider}) has replaced {replaced}, which is destroyed")
        register_kind("escrow.split", "Server keys escrowed in {escrow_id}: {threshold} of {custodians}")
        register_kind("escrow.recovered", "Server keys recovered from escrow {escrow_id} under KEK {kek_id}")
