"""The pages of the console."""

from django.urls import path

from qflare_site.console import views

app_name = "console"

urlpatterns = [
    path("", views.overview, name="overview"),
    path("devices", views.devices, name="devices"),
    path("status", views.status, name="status"),
]
