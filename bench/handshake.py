"""`python -m bench.handshake`: the server's CPU time for a handshake, and for a sealed request in its session.

Each stands beside the primitives and the database statements it is made of, in two readings. "Bare SQL" is
what no implementation can leave out: the statements by themselves, run and committed in one go without the
object mapper. "Statements by Django" are the same as the mapper builds, sends, reads and commits them: what
is above that is this project's own code.
"""

from collections.abc import Sequence
from typing import Any

from django.db import connection, transaction

from bench.bare_site import bare_site
from bench.django_time import DjangoTime
from bench.measuring import Stopwatch, steady
from bench.report import Figure, parse_options, show

REPETITIONS = 100
MOST_TIMES, MOST_CHALLENGE_SECONDS, MOST_MODEL_CHECK_SECONDS = 1.5, 5e-3, 10e-3

PRIMITIVES = (
    "verify M1", "encapsulate to ephemeral key", "encapsulate to registered key", "ephemeral keygen", "sign M2",
    "hash M1 and M2", "decapsulate",
)  # fmt: skip

Statement = tuple[str, Any]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    options = parse_options(__doc__, arguments, repetitions=REPETITIONS)
    with bare_site():
        figures, notes = measure(options.repetitions)
    show("Handshake, CPU time of the server", figures, as_json=options.json, notes=notes)


def measure(repetitions: int) -> tuple[list[Figure], list[str]]:
    """Return the figures, and how the reference's time divides. Call inside `bare_site`."""
    from bench.handshake_peer import Peer

    watch, peer = Stopwatch(), Peer()
    peer.shake_hands(Stopwatch())  # warms up: self-tests, keys, imports
    with steady():
        for _ in range(repetitions):
            peer.shake_hands(watch)
            peer.send_request(watch)
            _replay(_statements_of_a_handshake(peer), watch)
            _time_django(peer, watch)
            peer.run_primitives(watch)
            peer.check_model_signature(watch)
    return _figures(watch.medians()), _notes(watch.medians())


class Recorder:
    """Notes every SQL statement that Django sends, by the part of the handshake it belongs to."""

    def __init__(self) -> None:
        self.statements: dict[str, list[Statement]] = {}
        self._part = ""

    def begin(self, part: str) -> None:
        """Note the statements that follow as those of this part."""
        self._part = part

    def __call__(self, execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if not sql.startswith(("SAVEPOINT", "RELEASE", "ROLLBACK", "BEGIN")):
            self.statements.setdefault(self._part, []).append((sql, params))
        return execute(sql, params, many, context)


def _statements_of_a_handshake(peer: Any) -> dict[str, list[Statement]]:
    """Shake hands and undo it; what it sent to the database can then be sent anew."""
    recorder = Recorder()
    with transaction.atomic(), connection.execute_wrapper(recorder):
        peer.shake_hands(Stopwatch(), before_each=recorder.begin)
        peer.send_request(Stopwatch(), before_each=recorder.begin)
        transaction.set_rollback(True)
    return recorder.statements


def _replay(statements: dict[str, list[Statement]], watch: Stopwatch) -> None:
    for part, rows in statements.items():
        watch.run(f"SQL of {part}", _run_statements, rows)


def _run_statements(statements: Sequence[Statement]) -> None:
    with transaction.atomic(), connection.cursor() as cursor:
        for sql, params in statements:
            cursor.execute(sql, params)
            if cursor.description:
                cursor.fetchall()


def _time_django(peer: Any, watch: Stopwatch) -> None:
    """Note what the object mapper takes of one more handshake, and of a request in its session."""
    for part, act in (("handshake", peer.shake_hands), ("request", peer.send_request)):
        django = DjangoTime()
        with django.running():
            act(Stopwatch())
        watch.note(f"Django in a {part}", django.seconds)


def _figures(seconds: dict[str, float]) -> list[Figure]:
    primitives = sum(seconds[name] for name in PRIMITIVES)
    whole = seconds["challenge"] + seconds["authenticate"]
    bare = primitives + seconds["SQL of challenge"] + seconds["SQL of authenticate"]
    before_m2 = sum(seconds[name] for name in PRIMITIVES[:-1]) + seconds["SQL of challenge"]
    after_m2 = seconds["decapsulate"] + seconds["SQL of authenticate"]
    sealing, request = seconds["open and seal"], "sealed request of 1 KiB"
    by_django = "primitives, statements by Django"
    return [
        Figure("handshake", whole, by_django, primitives + seconds["Django in a handshake"], MOST_TIMES),
        Figure("handshake", whole, "primitives, bare SQL", bare, MOST_TIMES),
        Figure(
            "challenge", seconds["challenge"], "primitives, bare SQL", before_m2, most_seconds=MOST_CHALLENGE_SECONDS
        ),
        Figure("authenticate", seconds["authenticate"], "primitives, bare SQL", after_m2),
        Figure(request, seconds["request"], by_django, sealing + seconds["Django in a request"]),
        Figure(request, seconds["request"], "primitives, bare SQL", sealing + seconds["SQL of request"]),
        Figure(
            "check a model's signature",
            seconds["check model"],
            "ML-DSA verify",
            seconds["bare model verify"],
            most_seconds=MOST_MODEL_CHECK_SECONDS,
        ),
    ]


def _notes(seconds: dict[str, float]) -> list[str]:
    parts = (
        *PRIMITIVES, "SQL of challenge", "SQL of authenticate", "Django in a handshake",
        "open and seal", "SQL of request", "Django in a request",
    )  # fmt: skip
    return [f"{name}: {seconds[name] * 1e3:.3f} ms" for name in parts]


if __name__ == "__main__":
    main()
