"""Is the site well? One cheap answer for machines, part by part."""

import os
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Literal, TypedDict

from django.conf import settings
from django.db import Error as DatabaseError
from django.db import connection
from django.http import HttpRequest, JsonResponse
from django.utils import timezone
from django.views.decorators.http import require_safe
from redis import Redis
from redis.exceptions import RedisError

from audit.anchoring import missed_anchors
from audit.anchors import configured_anchors
from audit.models import Checkpoint
from enclave.models import EnclaveInstance
from qflare_site.models import ProcessHeartbeat

CHECKPOINT_LATE_AFTER = timedelta(minutes=6)
"""A checkpoint is due in every bucket of 5 minutes, also when nothing happens."""

Status = Literal["ok", "degraded", "failed"]


class PartHealth(TypedDict):
    """The state of one part, and a sentence for the operator."""

    status: Status
    detail: str


class Health(TypedDict):
    """The state of the site: that of its worst part."""

    status: Status
    parts: dict[str, PartHealth]


@require_safe
def health(_request: HttpRequest) -> JsonResponse:
    """Answer `GET /health`: 200 while the site can work (ok, degraded), 503 when a part has failed."""
    return _answer(examine(timezone.now()))


@require_safe
def live(_request: HttpRequest) -> JsonResponse:
    """Answer `GET /health/live`: this web process answers, whatever the rest of the site does."""
    return JsonResponse({"status": "ok"})


@require_safe
def ready(_request: HttpRequest) -> JsonResponse:
    """Answer `GET /health/ready`: whether this web process can serve, whatever workers do."""
    parts = {"database": _database(), "broker": _broker()}
    return _answer({"status": _worst(parts), "parts": parts})


def _answer(report: Health) -> JsonResponse:
    answer = JsonResponse(report, status=503 if report["status"] == "failed" else 200)
    answer["Cache-Control"] = "no-store"
    return answer


def examine(now: datetime) -> Health:
    """Return the health of every part at the time `now`."""
    parts = {"database": _database(), "broker": _broker()}
    if parts["database"]["status"] == "ok":
        parts |= {name: check(now) for name, check in PARTS_IN_DATABASE.items()}
    return {"status": _worst(parts), "parts": parts}


def _worst(parts: dict[str, PartHealth]) -> Status:
    present = {part["status"] for part in parts.values()}
    return "failed" if "failed" in present else "degraded" if "degraded" in present else "ok"


_MAY_WRITE = {"postgresql": "SHOW transaction_read_only", "sqlite": "SELECT 1"}


def _database() -> PartHealth:
    try:
        with connection.cursor() as cursor:
            cursor.execute(_MAY_WRITE[connection.vendor])
            read_only = cursor.fetchone() == ("on",)
    except DatabaseError as error:
        return {"status": "failed", "detail": f"The database does not answer ({type(error).__name__})."}
    if read_only:
        return {"status": "failed", "detail": f"{connection.display_name} answers, but takes no changes."}
    return {"status": "ok", "detail": f"{connection.display_name} answers."}


def _broker() -> PartHealth:
    return _folder_broker() if settings.EMBEDDED else _redis_broker()


def _folder_broker() -> PartHealth:
    folder = settings.QFLARE_BROKER_DIR
    if folder.exists() and not os.access(folder, os.W_OK | os.X_OK):
        return {"status": "failed", "detail": "The broker's folder is not writable."}
    return {"status": "ok", "detail": "The broker's folder is writable."}


def _redis_broker() -> PartHealth:
    client = Redis.from_url(settings.CELERY_BROKER_URL, socket_connect_timeout=1, socket_timeout=1)
    try:
        client.ping()
    except RedisError as error:
        return {"status": "failed", "detail": f"Redis does not answer ({type(error).__name__})."}
    finally:
        client.close()
    return {"status": "ok", "detail": "Redis answers."}


def _process(name: str) -> Callable[[datetime], PartHealth]:
    def check(now: datetime) -> PartHealth:
        seen_at = ProcessHeartbeat.objects.last_seen_at(name)
        if seen_at is None:
            return {"status": "failed", "detail": f"The {name} process has not been seen yet."}
        age = int((now - seen_at).total_seconds())
        status: Status = "ok" if now - seen_at <= ProcessHeartbeat.MAX_AGE else "failed"
        return {"status": status, "detail": f"The {name} process was seen {age} s ago."}

    return check


def _log(now: datetime) -> PartHealth:
    checkpoint = Checkpoint.objects.order_by("-created_at").only("created_at").first()
    if checkpoint is None:
        return {"status": "degraded", "detail": "The log has no checkpoint yet."}
    age = now - checkpoint.created_at
    status: Status = "ok" if age <= CHECKPOINT_LATE_AFTER else "degraded"
    return {"status": status, "detail": f"The last checkpoint is {int(age.total_seconds())} s old."}


def _evidence(_now: datetime) -> PartHealth:
    newest = EnclaveInstance.objects.order_by("-prepared_at").values_list("attester", "tier").first()
    if newest is None:
        return {"status": "ok", "detail": "No round has needed an enclave yet."}
    return {"status": "ok", "detail": "The newest enclave gave {} evidence, appraised as {}.".format(*newest)}


def _anchors(now: datetime) -> PartHealth:
    plans = configured_anchors()
    missed = missed_anchors(now=now, plans=plans)
    if missed:
        return {"status": "degraded", "detail": f"No receipt for too long from: {', '.join(missed)}."}
    names = ", ".join(plan.name for plan in plans)
    return {"status": "ok", "detail": f"Checkpoints are anchored at: {names}." if plans else "No anchor is configured."}


PARTS_IN_DATABASE: dict[str, Callable[[datetime], PartHealth]] = {
    "worker": _process("worker"),
    "enclave": _process("enclave"),
    "beat": _process("beat"),
    "log": _log,
    "anchors": _anchors,
    "evidence": _evidence,
}
"""What the database tells about the other parts, asked only when it answers."""
