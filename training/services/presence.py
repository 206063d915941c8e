"""How many devices there are that may ask, and how long one that is silent counts as present."""

import os
import threading
import time
from collections.abc import Callable
from datetime import timedelta

from django.conf import settings

from devices.models import Device, DeviceState
from training.services.asking import LONGEST_SECONDS, present_seconds

COUNTED_EVERY_SECONDS = 60


class FleetSize:
    """How many devices are active, as this process counted them within the last minute."""

    def __init__(self, count: Callable[[], int], clock: Callable[[], float] = time.monotonic) -> None:
        self._count, self._clock = count, clock
        self.begin_anew()

    def begin_anew(self) -> None:
        """Know nothing, with a lock that nobody holds: in a forked child the parent's threads do not live."""
        self._devices: int | None = None
        self._counted_at = 0.0
        self._counting = threading.Lock()

    def get(self) -> int:
        """Return the number; one thread counts, and the others take the last number meanwhile.

        Not for a transaction that is confined to a device, which would count that device alone.
        """
        known = self._devices
        if known is not None and (not self._is_old() or self._counting.locked()):
            return known
        with self._counting:
            if self._devices is None or self._is_old():
                self._devices = self._count()
                self._counted_at = self._clock()
            return self._devices

    def _is_old(self) -> bool:
        return self._clock() - self._counted_at >= COUNTED_EVERY_SECONDS


def count_active_devices() -> int:
    """Count the active devices, no further than makes a difference to when they are told to ask again."""
    most = LONGEST_SECONDS * settings.QFLARE_ASKS_PER_SECOND
    active = Device.objects.filter(state=DeviceState.ACTIVE).order_by()
    return active.values_list("state")[:most].count()


FLEET_SIZE = FleetSize(count_active_devices)

os.register_at_fork(after_in_child=FLEET_SIZE.begin_anew)


def present_for(shortest_round_seconds: int | None = None) -> timedelta:
    """Return how long a silent device of a federation counts as present; without the seconds of its rounds, of any."""
    return timedelta(seconds=present_seconds(FLEET_SIZE.get(), settings.QFLARE_ASKS_PER_SECOND, shortest_round_seconds))
