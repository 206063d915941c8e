from django.apps import AppConfig

_KINDS = {
    "incident.opened": "Incident {incident_id} opened by rule {rule} about {subject}: {severity}",
    "incident.acknowledged": "Incident {incident_id} ({rule}, {subject}) acknowledged",
    "incident.assigned": "Incident {incident_id} ({rule}, {subject}) assigned to {assignee}",
    "incident.noted": "Note on incident {incident_id} ({rule}, {subject}): {note}",
    "incident.closed": "Incident {incident_id} ({rule}, {subject}) closed: {note}",
    "response.done": "{response}, in answer to incident {incident_id}: {detail}",
    "response.failed": "{response}, in answer to incident {incident_id}, was not done: {detail}",
    "response.undone": "{response}, in answer to incident {incident_id}, was undone: {reason}",
    "rule.changed": "Rule {rule} tuned: {reason}",
    "channel.created": "Channel {channel} ({channel_kind}) is told of incidents from {least_severity} on",
    "channel.changed": "Channel {channel} changed: {change}",
    "notification.delivered": "Channel {channel} was told of incident {incident_id} at attempt {attempts}",
    "notification.failed": "Channel {channel} could not be told of incident {incident_id}: {error}",
}


class MonitorConfig(AppConfig):
    """Rules over events, incidents, answers by policy, notifications."""

    name = "monitor"
    label = "monitor"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from audit.kinds import register_kind
        from keyring.columns import Scope, register_wrapped_column
        from monitor.models import NotificationChannel

        # A lost secret is made anew and told to its receiver: not worth an escrow.
        register_wrapped_column(
            NotificationChannel, "wrapped_secret", scope=Scope.SESSIONS, bound_to=lambda channel: channel.name
        )
        for kind, sentence in _KINDS.items():
            register_kind(kind, sentence)
