"""What Django's error page shows of the settings while DEBUG is on."""

import re

from django.views.debug import SafeExceptionReporterFilter


class SecretsFilter(SafeExceptionReporterFilter):
    """Hide the PIN of the KEK's token, and URLs, which hold passwords, besides what Django hides by name."""

    hidden_settings = re.compile(SafeExceptionReporterFilter.hidden_settings.pattern + r"|PIN(?![A-Z])|_URL", re.I)
