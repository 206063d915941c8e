"""Where everything is: API, admin, console, health."""

from allauth.account.decorators import secure_admin_login
from django.contrib import admin
from django.urls import include, path
from drf_spectacular.views import SpectacularAPIView

from qflare_site import health
from qflare_site.api_reference import api_reference
from qflare_site.metrics.endpoint import metrics

handler400 = "qflare_site.problem_details.bad_request"
handler403 = "qflare_site.problem_details.permission_denied"
handler404 = "qflare_site.problem_details.page_not_found"
handler500 = "qflare_site.problem_details.server_error"

# One way in, with the second factor: the admin's own login page sends people there.
admin.site.login = secure_admin_login(admin.site.login)  # type: ignore[method-assign]

urlpatterns = [
    path("accounts/", include("operator_access.urls")),
    path("", include("qflare_site.console.urls")),
    path("admin/", admin.site.urls),
    path("health", health.health, name="health"),
    path("health/live", health.live, name="health-live"),
    path("health/ready", health.ready, name="health-ready"),
    path("metrics", metrics, name="metrics"),
    path("log/", include("audit.urls")),
    path("docs/api", api_reference, name="api-reference"),
    path("api/schema", SpectacularAPIView.as_view(), name="schema"),
    path("api/operator/", include("operator_api.urls")),
    *(path("api/", include(f"{app}.urls")) for app in ("enrollment", "sessions", "training", "enclave")),
]
