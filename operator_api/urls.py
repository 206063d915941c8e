from django.urls import path

from operator_api.views import devices, federations, log, models, rounds, tokens

app_name = "operator_api"

urlpatterns = [
    path("tokens", tokens.TokensView.as_view(), name="tokens"),
    path("tokens/<uuid:token_id>/revoke", tokens.RevokeTokenView.as_view(), name="revoke-token"),
    path("devices", devices.DevicesView.as_view(), name="devices"),
    path("devices/<uuid:device_id>", devices.DeviceView.as_view(), name="device"),
    path("devices/<uuid:device_id>/labels", devices.DeviceLabelsView.as_view(), name="device-labels"),
    *(
        path(f"devices/<uuid:device_id>/{verb}", devices.DeviceChangeView.as_view(change=verb), name=f"{verb}-device")
        for verb in devices.CHANGES
    ),
    path("federations", federations.FederationsView.as_view(), name="federations"),
    path("federations/<uuid:federation_id>", federations.FederationView.as_view(), name="federation"),
    path("federations/<uuid:federation_id>/roll-back", models.RollBackView.as_view(), name="roll-back"),
    *(
        path(
            f"federations/<uuid:federation_id>/{verb}",
            federations.FederationChangeView.as_view(change=verb),
            name=f"{verb}-federation",
        )
        for verb in federations.CHANGES
    ),
    path("rounds", rounds.RoundsView.as_view(), name="rounds"),
    path("rounds/<uuid:round_id>", rounds.RoundView.as_view(), name="round"),
    path("rounds/<uuid:round_id>/participations", rounds.ParticipationsView.as_view(), name="participations"),
    path("rounds/<uuid:round_id>/extend", rounds.ExtendRoundView.as_view(), name="extend-round"),
    path("rounds/<uuid:round_id>/cancel", rounds.CancelRoundView.as_view(), name="cancel-round"),
    path("models", models.ModelsView.as_view(), name="models"),
    path("models/<int:version_id>/release", models.ReleaseView.as_view(), name="release-model"),
    path("log/entries", log.EntriesView.as_view(), name="log-entries"),
    path("log/entries/<int:index>/proof", log.EntryProofView.as_view(), name="log-entry-proof"),
]
