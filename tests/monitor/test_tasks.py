"""What beat has the worker do, and how little that is while nothing happens."""

import pytest
from django.utils import timezone

from audit.services import sequence_log
from monitor import tasks
from monitor.models import Incident
from monitor.services.watch import watch
from tests.monitor.conftest import Scene

pytestmark = pytest.mark.django_db


def test_the_tasks_find_and_tell_and_may_come_twice(scene: Scene):
    scene.now = timezone.now()
    scene.event("log.fork_reported", actor="device:alice", device="alice", size=12, root="00")
    sequence_log()
    for _ in range(2):
        tasks.watch()
        tasks.deliver()
    assert Incident.objects.get().rule == "log-fork"


def test_watching_an_idle_log_costs_the_same_few_queries(scene: Scene, django_assert_max_num_queries):
    scene.refused("replayed challenge", times=3)
    for _ in range(3):
        scene.later(seconds=5).look()
    with django_assert_max_num_queries(30):
        watch(now=scene.now)


def test_watching_a_fleet_costs_no_more_for_more_devices_of_no_interest(scene: Scene, django_assert_max_num_queries):
    scene.look()
    for number in range(150):
        scene.event("device.resumed", device=f"edge-{number}", reason="x")
    sequence_log(scene.now)
    with django_assert_max_num_queries(30):
        watch(now=scene.now)
