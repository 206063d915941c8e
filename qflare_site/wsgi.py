"""WSGI entry point of the web process."""

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "qflare_site.settings")

application = get_wsgi_application()

# After the applications are there; a web process does not run system checks by itself.
from qflare_site.checks import require_cryptography  # noqa: E402

require_cryptography()
