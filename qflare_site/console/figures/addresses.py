"""The pages of the rows that figures and tables tell of."""

from uuid import UUID

from django.urls import reverse


def round_address(round_id: UUID) -> str:
    """Return the page of a round."""
    return reverse("console:round", args=(round_id,))


def device_address(device_id: UUID) -> str:
    """Return the page of a device."""
    return reverse("console:device", args=(device_id,))


def participation_address(participation_id: int) -> str:
    """Return the page of a device's part in a round."""
    return reverse("admin:training_participation_change", args=(participation_id,))
