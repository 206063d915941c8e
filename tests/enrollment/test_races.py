"""Two enrolments at once: a token makes one device, whoever is faster."""

from threading import Barrier, Thread

import pytest
from django.db import connection

from audit.models import Event
from devices.models import Device, DeviceKey
from enrollment.models import EnrolmentToken
from tests.enrollment.test_enrolment_api import KEYS, OTHER_KEYS, begun, client, issue
from tests.people import DjangoHttp, Person, assert_refused

pytestmark = pytest.mark.django_db(transaction=True)


def at_once(messages):
    """Post the messages from threads that start together; return the answers."""
    barrier, answers = Barrier(len(messages)), [None] * len(messages)

    def post(place, message):
        try:
            person = Person("nobody", None, None, DjangoHttp())
            barrier.wait()
            answers[place] = person.post_cbor("/api/enroll", message)
        finally:
            connection.close()

    threads = [Thread(target=post, args=numbered) for numbered in enumerate(messages)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


@pytest.mark.parametrize("names", [("carol", "dave"), ("carol", "carol")])
def test_of_two_attempts_racing_with_one_token_one_wins(mallory, names):
    token = issue()
    exchanges = client(token, names[0]), client(token, names[1], OTHER_KEYS)
    answers = at_once([begun(mallory, exchange) for exchange in exchanges])
    loser = max(answers, key=lambda answer: answer.status_code)
    assert sorted(answer.status_code for answer in answers) == [200, 403]
    assert_refused(loser, "token-used")
    assert (Device.objects.count(), DeviceKey.objects.count()) == (1, 2)
    assert EnrolmentToken.objects.get().used_by == Device.objects.get()
    assert Event.objects.filter(kind="token.refused").count() == 1


def test_the_same_e3_racing_with_itself_gets_one_answer(mallory):
    message = begun(mallory, client(issue(), "carol", KEYS))
    first, second = at_once([message, message])
    assert first.content == second.content
    assert Device.objects.count() == 1


def test_of_two_tokens_racing_for_one_name_one_wins(mallory):
    exchanges = client(issue(), "carol"), client(issue(), "carol", OTHER_KEYS)
    answers = at_once([begun(mallory, exchange) for exchange in exchanges])
    assert sorted(answer.status_code for answer in answers) == [200, 409]
    assert_refused(max(answers, key=lambda answer: answer.status_code), "device-name-taken")
    assert EnrolmentToken.objects.filter(used_at=None).count() == 1
