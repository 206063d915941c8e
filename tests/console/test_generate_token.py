"""`manage.py generate_token`."""

import shlex
from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from enrollment.models import EnrolmentToken
from qflare_protocol.enrolment import EnrolmentToken as TokenSecret

pytestmark = pytest.mark.django_db


def run(*arguments):
    out = StringIO()
    call_command("generate_token", *arguments, stdout=out)
    return out.getvalue().splitlines()


def commands_of(lines):
    return [shlex.split(line.split(maxsplit=1)[1]) for line in lines if line.strip().startswith("run")]


def test_it_prints_the_token_and_the_command_to_run_on_the_device():
    lines = run("--name", "edge 1", "--server", "https://qflare.example/")
    (command,) = commands_of(lines)
    token = lines[1].split()[1]
    assert command == [
        *("qflare-edge", "enroll", "--server", "https://qflare.example"),
        *("--token", token, "--name", "edge 1"),
    ]
    assert TokenSecret.from_text(token).lookup == bytes(EnrolmentToken.objects.get().lookup)


def test_without_a_name_the_device_chooses_its_own():
    lines = run("--group", "ward")
    assert lines[0].startswith("For any device, until ")
    assert "--name" not in commands_of(lines)[0]
    assert EnrolmentToken.objects.get().group == "ward"


def test_several_tokens_for_one_name_are_numbered():
    run("--name", "bed", "--count", "3")
    assert set(EnrolmentToken.objects.values_list("device_name", flat=True)) == {"bed-1", "bed-2", "bed-3"}


@pytest.mark.parametrize("arguments", [("--count", "0"), ("--count", "101"), ("--hours", "0"), ("--hours", "721")])
def test_terms_that_the_service_refuses_issue_nothing(arguments):
    with pytest.raises(CommandError, match="token"):
        run(*arguments)
    assert not EnrolmentToken.objects.exists()


def test_an_unknown_suite_is_refused():
    with pytest.raises(CommandError, match="suite"):
        run("--suite", "QF1-NONE")
