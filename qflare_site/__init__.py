"""The site: settings, URLs, Celery application, process supervision, health and operator console."""

from qflare_site.celery import app as celery_app

__all__ = ["celery_app"]
