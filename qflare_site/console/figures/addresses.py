"""The pages of the rows that figures and tables tell of."""

from uuid import UUID

from django.urls import reverse


def round_address(round_id: UUID) -> str:
    """Return the page of a round."""
    return reverse("admin:training_round_change", args=(round_id,))


def device_address(device_id: UUID) -> str:
    """Return the page of a device."""
    return reverse("admin:devices_device_change", args=(device_id,))


def participation_address(participation_id: int) -> str:
    """Return the page of a device's part in a round."""
    return reverse("admin:training_participation_change", args=(participation_id,))


def version_address(version_id: int) -> str:
    """Return the page of a model version."""
    return reverse("admin:training_modelversion_change", args=(version_id,))
