"""The screens of the console; every list and every row of one has its address."""

from django.urls import path

from qflare_site.console import (
    access,
    approvals,
    enrolment,
    log_export,
    log_screens,
    new_federation,
    system,
    version_screens,
    views,
    workers,
)

app_name = "console"

urlpatterns = [
    path("", views.show_overview, name="overview"),
    path("devices", views.list_devices, name="devices"),
    path("devices/<uuid:device_id>", views.show_device, name="device"),
    path("enrolment", enrolment.list_tokens, name="enrolment"),
    path("sessions", views.list_sessions, name="sessions"),
    path("federations", views.list_federations, name="federations"),
    path("federations/new", new_federation.create, name="federation-new"),
    path("federations/<uuid:federation_id>", views.show_federation, name="federation"),
    path("rounds", views.list_rounds, name="rounds"),
    path("rounds/<uuid:round_id>", views.show_round, name="round"),
    path("rounds/<uuid:round_id>/result", views.download_result, name="round-result"),
    path("models", version_screens.list_versions, name="models"),
    path("models/compare", version_screens.compare, name="model-comparison"),
    path("models/<int:version_id>", version_screens.show_version, name="model"),
    path("incidents", views.list_incidents, name="incidents"),
    path("log-entries", log_screens.list_entries, name="log-entries"),
    path("log-entries/export", log_export.export, name="log-export"),
    path("log-entries/verify", log_screens.verify, name="log-verify"),
    path("log-entries/<int:index>", log_screens.show_entry, name="log-entry"),
    path("log-checkpoints", log_screens.list_checkpoints, name="log-checkpoints"),
    path("workers", workers.show_workers, name="workers"),
    path("workers/failures", workers.list_failures, name="task-failures"),
    path("system", system.show_system, name="system"),
    path("access", access.show_access, name="access"),
    path("approvals", approvals.list_approvals, name="approvals"),
    path("approvals/<uuid:request_id>", approvals.decide, name="approval"),
    path("access/unlock", access.unlock_sign_in, name="unlock"),
]
