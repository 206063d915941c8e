"""A TCP proxy in front of a site that drops, delays, truncates and reorders, by a seed.

Each connection gets a fate. Bytes within a connection keep their order, as TCP promises; what is reordered
are requests: a *late* one is hung up on, so that the client sends it again, and reaches the server after that.
"""

import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from urllib.parse import urlsplit

PIECE = 1 << 14
LATE_SECONDS = 0.7
LONGEST_DELAY_SECONDS = 0.05
FATES = ("honest", "refused", "request cut", "answer cut", "slow", "late")
WEIGHTS = (2, 1, 2, 2, 1, 1)


class BadNetwork:
    """Listens on a port of its own and forwards to one server; `calm` lets every connection through."""

    def __init__(self, server: str, seed: int) -> None:
        parts = urlsplit(server)
        self._server = (parts.hostname or "", parts.port or 80)
        self._random, self.calm = random.Random(seed), True  # noqa: S311 - it has to repeat
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.fates: Counter[str] = Counter()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take no further connection."""
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            fate = "honest" if self.calm else self._random.choices(FATES, WEIGHTS)[0]
            self.fates[fate] += 1
            limit = self._random.choice((200, 3_000, 300_000, 2_000_000))
            threading.Thread(target=self._serve, args=(client, fate, limit), daemon=True).start()

    def _serve(self, client: socket.socket, fate: str, limit: int) -> None:
        with client:
            if fate == "refused":
                return
            if fate == "late":
                self._deliver_late(client, limit)
                return
            with socket.create_connection(self._server) as server:
                cut = {"request cut": (limit, None), "answer cut": (None, limit)}.get(fate, (None, None))
                pause = LONGEST_DELAY_SECONDS if fate == "slow" else 0.0
                back = threading.Thread(target=_pump, args=(server, client, cut[1], pause), daemon=True)
                back.start()
                _pump(client, server, cut[0], pause)
                back.join()

    def _deliver_late(self, client: socket.socket, limit: int) -> None:
        held, quiet = bytearray(), 0.2
        client.settimeout(quiet)
        try:
            while len(held) < 2 * limit and (piece := client.recv(PIECE)):
                held += piece
        except OSError:
            pass  # the request is here: its sender waits for the answer
        client.close()
        time.sleep(LATE_SECONDS)
        with socket.create_connection(self._server) as server:
            server.settimeout(5)
            try:
                server.sendall(held)
                server.recv(PIECE)
            except OSError:
                return


def _pump(origin: socket.socket, target: socket.socket, limit: int | None, pause: float) -> None:
    """Forward until the origin ends, or `limit` bytes are through; then hang up on both."""
    forwarded = 0
    try:
        while piece := origin.recv(PIECE):
            if limit is not None and forwarded + len(piece) > limit:
                target.sendall(piece[: limit - forwarded])
                break
            target.sendall(piece)
            forwarded += len(piece)
            time.sleep(pause)
    except OSError:
        pass
    for end in (origin, target):
        _hang_up(end.shutdown)


def _hang_up(shutdown: Callable[[int], None]) -> None:
    try:
        shutdown(socket.SHUT_RDWR)
    except OSError:
        return
