"""What a device's process counts of its own work, in memory; `edge_client.metrics` shows it to Prometheus."""

import threading
from collections.abc import Iterator


class Measure:
    """One number, or one for each value of a label; safe to change from several threads."""

    def __init__(self, name: str, sentence: str, label: str = "", values: tuple[str, ...] = ("",)) -> None:
        self.name, self.sentence, self.label = name, sentence, label
        self._lock = threading.Lock()
        self._numbers = dict.fromkeys(values, 0.0)

    def add(self, value: str = "", *, amount: float = 1.0) -> None:
        """Add to the number of a label's value. Raises `KeyError` for a value that was not declared."""
        with self._lock:
            self._numbers[value] += amount

    def set(self, number: float) -> None:
        """Set the number of a measure without a label."""
        with self._lock:
            self._numbers[""] = number

    def number(self, value: str = "") -> float:
        """Return the number of a label's value."""
        return self._numbers[value]

    def numbers(self) -> Iterator[tuple[str, float]]:
        """Yield each value of the label with its number."""
        yield from self._numbers.items()


ROUNDS = Measure(
    "qflare_edge_rounds",
    "Rounds worked, by how they ended for this device.",
    "outcome",
    ("handed-in", "refused", "training-failed", "training-stopped", "not-sealed", "disk-full"),
)
UPDATES = Measure(
    "qflare_edge_updates",
    "Updates whose hand-in began, and those that the server gave a receipt for or refused for good.",
    "step",
    ("submitted", "accepted", "refused"),
)
BYTES = Measure(
    "qflare_edge_body_bytes", "Bytes of HTTP bodies, of requests that were answered.", "direction", ("sent", "received")
)
REQUEST_FAILURES = Measure(
    "qflare_edge_request_failures",
    "Requests without an answer (network), and answers that ask for patience (unavailable: 429, 500, 502 to 504).",
    "reason",
    ("network", "unavailable"),
)
RETRIES = Measure("qflare_edge_retries", "Requests, or steps of several requests, that were tried again.")
HANDSHAKES = Measure(
    "qflare_edge_handshakes", "Handshakes that opened a session or were refused.", "outcome", ("opened", "refused")
)
TRAINING_SECONDS = Measure("qflare_edge_training_seconds", "Time that training code ran, whatever came of it.")
COUNTERS = (ROUNDS, UPDATES, BYTES, REQUEST_FAILURES, RETRIES, HANDSHAKES, TRAINING_SECONDS)

LAST_UPDATE = Measure(
    "qflare_edge_last_update_timestamp_seconds", "Unix time of the last receipt since the start; 0: none yet."
)
LAST_ROUND = Measure("qflare_edge_last_round_number", "Number of the round that was trained for last; 0: none yet.")
GAUGES = (LAST_UPDATE, LAST_ROUND)
