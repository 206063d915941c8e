"""The Content-Security-Policy of every answer: strict, and widened for the admin as its theme needs."""

from collections.abc import Callable

from csp.constants import HEADER
from csp.middleware import CSPMiddleware, PolicyParts
from csp.utils import build_policy
from django.conf import settings
from django.http import HttpRequest, HttpResponseBase

ADMIN_ADDITIONS: dict[str, list[str]] = {
    # unfold's Alpine evaluates expressions in attributes and sets inline styles
    "script-src": ["'unsafe-eval'"],
    "style-src": ["'unsafe-inline'"],
}


THEMED = frozenset({"admin", "console"})
"""The names of the URL spaces whose pages wear the theme."""


class ContentSecurityPolicyMiddleware(CSPMiddleware):
    """Send `CONTENT_SECURITY_POLICY`, with `ADMIN_ADDITIONS` for the pages of the admin and the console only.

    It is written out once for the answers of the API, which no view changes it for: that takes as long as a query.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        super().__init__(get_response)
        self._of_the_site = build_policy()

    def process_response(self, request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        """Set the header."""
        if settings.DEBUG or not request.path_info.startswith("/api/"):
            return super().process_response(request, response)
        response.headers[HEADER] = self._of_the_site
        return response

    def get_policy_parts(
        self, request: HttpRequest, response: HttpResponseBase, report_only: bool = False
    ) -> PolicyParts:
        """Return django-csp's parts for this request."""
        parts = super().get_policy_parts(request, response, report_only)
        if not report_only and request.resolver_match and THEMED & set(request.resolver_match.app_names):
            parts.update = {**(parts.update or {}), **ADMIN_ADDITIONS}
        return parts
