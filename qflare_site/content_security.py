"""The Content-Security-Policy of every answer: strict, and widened for the admin as its theme needs."""

from csp.middleware import CSPMiddleware, PolicyParts
from django.http import HttpRequest, HttpResponseBase

ADMIN_ADDITIONS: dict[str, list[str]] = {
    # unfold's Alpine evaluates expressions in attributes and sets inline styles
    "script-src": ["'unsafe-eval'"],
    "style-src": ["'unsafe-inline'"],
}


class ContentSecurityPolicyMiddleware(CSPMiddleware):
    """Send the policy of `CONTENT_SECURITY_POLICY`, with `ADMIN_ADDITIONS` for the admin's own pages only."""

    def get_policy_parts(
        self, request: HttpRequest, response: HttpResponseBase, report_only: bool = False
    ) -> PolicyParts:
        """Return django-csp's parts for this request."""
        parts = super().get_policy_parts(request, response, report_only)
        if not report_only and request.resolver_match and "admin" in request.resolver_match.app_names:
            parts.update = {**(parts.update or {}), **ADMIN_ADDITIONS}
        return parts
