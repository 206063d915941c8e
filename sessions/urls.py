from django.urls import path

from sessions.api import AuthenticateView, ChallengeView, CloseSessionView

urlpatterns = [
    path("challenge", ChallengeView.as_view(), name="challenge"),
    path("authenticate", AuthenticateView.as_view(), name="authenticate"),
    path("session/close", CloseSessionView.as_view(), name="close-session"),
]
