"""Devices: see them, suspend, resume, revoke and label them."""

import uuid
from collections.abc import Callable

from django.db.models import QuerySet
from django.utils import timezone
from drf_spectacular.utils import OpenApiExample, extend_schema, extend_schema_serializer
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from devices.models import Device, DeviceState
from devices.services import resume_device, revoke_device, set_device_labels, suspend_device
from operator_admin.actions import refuse_alone
from operator_api.authentication import OperatorView
from operator_api.listing import ListView, Narrowing
from operator_api.reasons import Reason, reason_of
from operator_api.scopes import Scope
from qflare_protocol.errors import Refusal

Change = Callable[..., Device]
CHANGES: dict[str, Change] = {"suspend": suspend_device, "resume": resume_device, "revoke": revoke_device}


class DeviceSerializer(serializers.ModelSerializer[Device]):
    """A device as operators see it."""

    class Meta:
        model = Device
        fields = (
            "id", "name", "group", "labels", "suite", "state", "state_reason", "state_changed_at", "enrolled_at",
            "last_seen_at", "keys_due_at",
        )  # fmt: skip
        read_only_fields = fields


class DeviceNarrowing(Narrowing):
    """Devices by name, group or state."""

    name = serializers.CharField(required=False)
    group = serializers.CharField(required=False, allow_blank=True)
    state = serializers.ChoiceField(DeviceState.choices, required=False)


@extend_schema_serializer(examples=[OpenApiExample("example", {"labels": {"country": "fi", "ward": "3"}})])
class Labels(serializers.Serializer[dict[str, dict[str, str]]]):
    """All labels of a device; those that are not named here are taken away."""

    labels = serializers.DictField(child=serializers.CharField(max_length=100))


def device_by_id(device_id: uuid.UUID) -> Device:
    """Return a device. Raises `Refusal("not-found")`."""
    device = Device.objects.filter(id=device_id).first()
    if device is None:
        raise Refusal("not-found", "There is no such device.")
    return device


class DevicesView(ListView):
    """`GET devices`."""

    scopes = {"GET": Scope.DEVICES_READ}
    serializer_class, narrowing, ordering = DeviceSerializer, DeviceNarrowing, ("name",)

    def rows(self) -> QuerySet[Device]:
        """Return all devices."""
        return Device.objects.all()

    @extend_schema(operation_id="list_devices", parameters=[DeviceNarrowing], responses=DeviceSerializer(many=True))
    def get(self, request: Request) -> Response:
        """List devices by name."""
        return self.page(request)


class DeviceView(OperatorView):
    """`GET devices/<id>`."""

    scopes = {"GET": Scope.DEVICES_READ}

    @extend_schema(operation_id="show_device", responses=DeviceSerializer)
    def get(self, request: Request, device_id: uuid.UUID) -> Response:
        """Show a device."""
        return Response(DeviceSerializer(device_by_id(device_id)).data)


class DeviceChangeView(OperatorView):
    """`POST devices/<id>/suspend`, `resume` and `revoke`."""

    scopes = {"POST": Scope.DEVICES_WRITE}
    change = "suspend"

    @extend_schema(request=Reason, responses=DeviceSerializer)
    def post(self, request: Request, device_id: uuid.UUID) -> Response:
        """Change the state of a device, with the reason for it."""
        reason = reason_of(request)
        device_by_id(device_id)
        if self.change == "revoke":
            refuse_alone("revoke")
        changed = CHANGES[self.change](device_id, reason=reason, actor=request.user.actor, now=timezone.now())
        return Response(DeviceSerializer(changed).data)


class DeviceLabelsView(OperatorView):
    """`PUT devices/<id>/labels`."""

    scopes = {"PUT": Scope.DEVICES_WRITE}

    @extend_schema(operation_id="label_device", request=Labels, responses=DeviceSerializer)
    def put(self, request: Request, device_id: uuid.UUID) -> Response:
        """Give a device these labels, by which federations choose whom they invite."""
        asked = Labels(data=request.data)
        asked.is_valid(raise_exception=True)
        device_by_id(device_id)
        labelled = set_device_labels(device_id, asked.validated_data["labels"], actor=request.user.actor)
        return Response(DeviceSerializer(labelled).data)
