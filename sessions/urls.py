from django.urls import path

from sessions.api import (
    AuthenticateView,
    ChallengeView,
    CloseSessionView,
    RekeyView,
    RequestQkdKeyView,
    RotateKeysView,
    WitnessView,
)

urlpatterns = [
    path("challenge", ChallengeView.as_view(), name="challenge"),
    path("authenticate", AuthenticateView.as_view(), name="authenticate"),
    path("request_qkey", RequestQkdKeyView.as_view(), name="request-qkd-key"),
    path("session/rekey", RekeyView.as_view(), name="rekey-session"),
    path("keys/rotate", RotateKeysView.as_view(), name="rotate-keys"),
    path("witness", WitnessView.as_view(), name="witness"),
    path("session/close", CloseSessionView.as_view(), name="close-session"),
]
