"""A TCP proxy that counts: what devices and server say to one another passes here."""

import asyncio
import contextlib
import threading


class CountingProxy:
    """Forwards from a port of its own to `target` (host, port); runs in a thread while it is open."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self.to_server = self.to_devices = 0
        self._started = threading.Event()
        self.port = 0

    def __enter__(self) -> "CountingProxy":
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._started.wait()
        return self

    def __exit__(self, *exception: object) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(10)

    @property
    def total_bytes(self) -> int:
        """All bytes so far, both ways, with the headers of TLS and HTTP."""
        return self.to_server + self.to_devices

    def _run(self) -> None:
        asyncio.run(self._forward())

    async def _forward(self) -> None:
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        await self._ended.wait()
        server.close()

    async def _serve(self, device: asyncio.StreamReader, answer: asyncio.StreamWriter) -> None:
        try:
            server, request = await asyncio.open_connection(*self._target)
        except OSError:
            answer.close()
            return
        with contextlib.suppress(asyncio.CancelledError):  # the run is over
            await asyncio.gather(self._pipe(device, request, "to_server"), self._pipe(server, answer, "to_devices"))

    async def _pipe(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, counter: str) -> None:
        try:
            while piece := await source.read(1 << 16):
                setattr(self, counter, getattr(self, counter) + len(piece))
                sink.write(piece)
                await sink.drain()
        except OSError:
            pass  # one side has gone; the other is told by the end of its stream
        finally:
            sink.close()
