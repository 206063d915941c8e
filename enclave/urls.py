from django.urls import path

from enclave.api import EnclaveStatusView

urlpatterns = [path("enclave/status", EnclaveStatusView.as_view(), name="enclave-status")]
