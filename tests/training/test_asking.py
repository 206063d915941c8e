"""How often devices without work ask: the rate is what the operator sets, and not what the fleet's size makes it."""

import os
import threading

import pytest
from django.db import DatabaseError, connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from devices.models import Device, DeviceState
from tests.factories import large_fleet
from tests.people import Person
from training.models import Federation, Participation, ParticipationState, Round, RoundState
from training.services.asking import fleet_seconds, present_seconds, usual_seconds
from training.services.participation import work_for
from training.services.presence import COUNTED_EVERY_SECONDS, FleetSize, count_active_devices, present_for

HOUR, DAY = 3600, 86_400


@pytest.mark.parametrize(
    ("round_seconds", "seconds"), [(None, 30), (1, 1), (59, 1), (600, 10), (1800, 30), (HOUR, 30), (DAY, 30)]
)
def test_a_small_fleet_asks_sixty_times_a_round_and_every_half_minute(round_seconds: int | None, seconds: int) -> None:
    assert usual_seconds(round_seconds) == seconds


def test_between_two_buffers_a_small_fleet_asks_every_two_seconds() -> None:
    assert usual_seconds(HOUR, between_buffers=True) == 2


@pytest.mark.parametrize(
    ("devices", "rate", "round_seconds", "seconds"),
    [
        (0, 300, None, 0),
        (1, 300, HOUR, 1),
        (9000, 300, HOUR, 30),
        (9001, 300, HOUR, 31),
        (100_000, 300, HOUR, 334),
        (100_000, 4000, HOUR, 25),
        (1_000_000, 300, HOUR, 600),
        (1_000_000, 300, 60, 10),
        (1_000_000, 300, 5, 0),
        (1_000_000, 300, DAY, 3334),
        (10_000_000, 300, DAY, 3600),
        (10_000_000, 300, None, 3600),
        (10_000_000, 300, HOUR, 600),
        (10_000_000, 1, 7 * DAY, 3600),
    ],
)
def test_a_large_fleet_asks_at_the_rate_but_six_times_a_round_and_once_an_hour(
    devices: int, rate: int, round_seconds: int | None, seconds: int
) -> None:
    assert fleet_seconds(devices, rate, round_seconds) == seconds


@pytest.mark.parametrize(
    ("devices", "round_seconds", "seconds"),
    [(0, None, 120), (9000, HOUR, 120), (10, 60, 120), (100_000, HOUR, 424), (10_000_000, None, 3690)],
)
def test_who_is_silent_is_present_as_long_as_it_may_be_told_to_wait_and_a_while_more(
    devices: int, round_seconds: int | None, seconds: int
) -> None:
    assert present_seconds(devices, 300, round_seconds) == seconds


@pytest.mark.django_db
class TestADeviceIsTold:
    def test_as_ever_in_a_fleet_that_keeps_the_rate(self, federation: Federation, alice: Person, settings) -> None:
        large_fleet(59)
        settings.QFLARE_ASKS_PER_SECOND = 2
        assert alice.line().ask().message == {"round": None, "ask_again_seconds": 30}

    def test_to_wait_longer_in_a_fleet_that_would_not(self, federation: Federation, alice: Person, settings) -> None:
        large_fleet(799)  # with alice 800: the request counts more rows than those of its own device
        settings.QFLARE_ASKS_PER_SECOND = 2
        assert alice.line().ask().message == {"round": None, "ask_again_seconds": 400}

    def test_to_wait_a_sixth_of_its_shortest_round_at_most(
        self, federation: Federation, alice: Person, settings
    ) -> None:
        large_fleet(800)
        settings.QFLARE_ASKS_PER_SECOND = 1
        assert alice.line().ask().message["ask_again_seconds"] == 600
        Federation.objects.update(round_seconds=90)
        assert alice.line().ask().message["ask_again_seconds"] == 15

    def test_of_a_round_that_is_about_to_open_in_milliseconds_as_ever(self, running: Round, alice: Person) -> None:
        now = timezone.now()
        Round.objects.update(state=RoundState.PENDING, created_at=now, invited=1000)
        told = work_for(alice.device, active_devices=100_000, now=now)
        assert (told["ask_again_seconds"], told["ask_again_milliseconds"]) == (334, 20_000)
        Round.objects.update(invited=1500)  # they would ask in half a minute, which was never sooner than told
        assert "ask_again_milliseconds" not in work_for(alice.device, active_devices=100_000, now=now)

    def test_between_two_buffers_to_keep_the_rate_too(self, running: Round, alice: Person) -> None:
        now = timezone.now()
        Participation.objects.update(state=ParticipationState.SUBMITTED)
        Federation.objects.update(mode="asynchronous", target_updates=3)
        Round.objects.update(state=RoundState.AGGREGATING)
        assert work_for(alice.device, active_devices=300, now=now)["ask_again_seconds"] == 2
        assert work_for(alice.device, active_devices=3000, now=now)["ask_again_seconds"] == 10

    def test_of_a_round_that_waits_at_once(self, running: Round, alice: Person) -> None:
        assert work_for(alice.device, active_devices=10**7, now=timezone.now())["ask_again_seconds"] == 0


class TestTheFleetsSize:
    def test_it_is_counted_once_a_minute(self) -> None:
        clock, counts = Clock(), iter([3, 5])
        size = FleetSize(lambda: next(counts), clock)
        assert [size.get(), size.get()] == [3, 3]
        clock.now += COUNTED_EVERY_SECONDS - 1
        assert size.get() == 3
        clock.now += 1
        assert [size.get(), size.get()] == [5, 5]

    def test_no_thread_waits_while_another_counts_anew(self) -> None:
        clock, begun, done = Clock(), threading.Event(), threading.Event()
        done.set()

        def slowly() -> int:
            begun.set()
            assert done.wait(10)
            return 2 if clock.now == 1000 else 7

        size = FleetSize(slowly, clock)
        assert size.get() == 2
        begun.clear()
        done.clear()
        clock.now += COUNTED_EVERY_SECONDS
        counting = threading.Thread(target=size.get)
        counting.start()
        assert begun.wait(10)
        assert size.get() == 2
        done.set()
        counting.join(10)
        assert size.get() == 7

    def test_a_count_that_fails_is_made_again(self) -> None:
        counts: list[int | Exception] = [DatabaseError("the database is away"), 4]

        def count() -> int:
            counted = counts.pop(0)
            if isinstance(counted, Exception):
                raise counted
            return counted

        size = FleetSize(count, Clock())
        with pytest.raises(DatabaseError):
            size.get()
        assert size.get() == 4


@pytest.mark.django_db
class TestActiveDevices:
    def test_who_is_suspended_or_revoked_is_not_counted(self) -> None:
        large_fleet(3)
        Device.objects.filter(name="of-many-0").update(state=DeviceState.REVOKED)
        Device.objects.filter(name="of-many-1").update(state=DeviceState.SUSPENDED)
        assert count_active_devices() == 1

    def test_they_are_counted_no_further_than_it_matters(self, settings) -> None:
        settings.QFLARE_ASKS_PER_SECOND = 1
        large_fleet(3700)
        assert count_active_devices() == 3600

    def test_how_long_one_is_present_follows_their_number(self, settings) -> None:
        settings.QFLARE_ASKS_PER_SECOND = 1
        large_fleet(400)
        assert (present_for().seconds, present_for(600).seconds) == (490, 190)

    @pytest.mark.skipif(not os.environ.get("DATABASE_URL"), reason="the plan is PostgreSQL's")
    def test_an_index_is_enough_to_count_them(self) -> None:
        with CaptureQueriesContext(connection) as sent:
            count_active_devices()
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL enable_seqscan = off")
            cursor.execute("SET LOCAL enable_bitmapscan = off")
            cursor.execute(f"EXPLAIN {sent[0]['sql']}")
            assert "Index Only Scan" in str(cursor.fetchall())


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now
