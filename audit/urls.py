from django.urls import path

from audit.api import CheckpointView, ConsistencyProofView, InclusionProofView, TileView

urlpatterns = [
    path("checkpoint", CheckpointView.as_view(), name="log-checkpoint"),
    path("tile/<str:level>/<path:place>", TileView.as_view(), name="log-tile"),
    path("proof/inclusion", InclusionProofView.as_view(), name="log-inclusion"),
    path("proof/consistency", ConsistencyProofView.as_view(), name="log-consistency"),
]
