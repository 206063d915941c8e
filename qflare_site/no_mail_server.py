"""What stands in the place of a mail server where none is configured: it says so."""

from collections.abc import Sequence

from django.core.mail import EmailMessage
from django.core.mail.backends.base import BaseEmailBackend


class NoMailServer(OSError):
    """QFLARE_SMTP_URL is empty."""


class EmailBackend(BaseEmailBackend):
    """Refuses every message; Django's own default would try a mail server on this host."""

    def send_messages(self, email_messages: Sequence[EmailMessage]) -> int:
        """Raise `NoMailServer`."""
        raise NoMailServer("set QFLARE_SMTP_URL")
