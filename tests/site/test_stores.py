"""The settings of the stores of both profiles."""

import pytest
from django.conf import settings
from django.core import mail
from django.db import connection

from qflare_site.stores import postgres_database, smtp_settings, sqlite_database


def test_a_postgres_url_is_taken_apart():
    database = postgres_database("postgres://us%40er:p%2Fw@db.example:6543/qflare?sslmode=verify-full")
    assert database["USER"] == "us@er"
    assert database["PASSWORD"] == "p/w"
    assert (database["HOST"], database["PORT"], database["NAME"]) == ("db.example", "6543", "qflare")
    assert database["OPTIONS"] == {"sslmode": "verify-full", "prepare_threshold": 1}


def test_the_embedded_database_waits_its_turn_and_survives_power_loss(tmp_path):
    options = sqlite_database(tmp_path / "db")["OPTIONS"]
    assert options["transaction_mode"] == "IMMEDIATE"
    assert options["timeout"] == 20
    assert "journal_mode=WAL" in options["init_command"]
    assert "synchronous=FULL" in options["init_command"]


@pytest.mark.parametrize(
    ("url", "port", "tls", "starttls"),
    [
        ("smtps://us%40er:p%2Fw@mail.example", 465, True, False),
        ("smtp://us%40er:p%2Fw@mail.example", 587, False, True),
        ("smtp://mail.example:25", 25, False, True),
        ("smtp://us%40er:p%2Fw@localhost:25", 25, False, True),
        ("smtp://localhost:25", 25, False, False),
    ],
)
def test_mail_goes_through_tls_unless_the_server_is_here_and_asks_for_no_password(url, port, tls, starttls):
    server = smtp_settings(url)
    assert (server["port"], server["tls"], server["starttls"]) == (port, tls, starttls)
    if "@" in url:
        assert (server["user"], server["password"]) == ("us@er", "p/w")


def test_without_a_mail_server_a_message_is_refused_and_says_why(settings):
    settings.EMAIL_BACKEND = smtp_settings("")["backend"]
    with pytest.raises(OSError, match="set QFLARE_SMTP_URL"):
        mail.send_mail("subject", "text", None, ["olga@hospital.example"])


@pytest.mark.django_db
def test_the_running_database_is_the_profile_s():
    assert connection.vendor == ("sqlite" if settings.EMBEDDED else "postgresql")


def test_celery_carries_json_only():
    from qflare_site.celery import app

    assert app.conf.accept_content == ["json"]
    assert app.conf.task_serializer == "json"
    assert app.conf.task_ignore_result is True
    assert app.conf.worker_enable_remote_control is False


@pytest.mark.parametrize(
    ("task", "queue"),
    [
        ("audit.tasks.anything", "audit"),
        ("training.tasks.aggregate_round", "enclave"),
        ("training.tasks.prepare_round", "enclave"),
        ("training.tasks.tick", "default"),
    ],
)
def test_each_task_goes_to_its_queue(task, queue):
    from qflare_site.celery import app

    assert app.amqp.router.route({}, task)["queue"].name == queue


def test_every_beat_entry_names_a_task_that_exists():
    from qflare_site.celery import app

    app.loader.import_default_modules()
    assert {entry["task"] for entry in app.conf.beat_schedule.values()} <= set(app.tasks)
