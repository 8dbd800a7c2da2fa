"""Connections that cannot be held for ever: deadlines for headers and for answers that a client does not take.

uvicorn has neither, and no limit of what headers hold; bodies have their deadline in `endpoints`.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from optimum_serve.settings import Settings

#: Bytes of the address and the headers of one request.
HEAD_BYTES = 65_536
#: Seconds that connections without a request stay open once the server is told to stop.
LINGER = 0.5


class Deadlines(HttpToolsProtocol):
    """uvicorn's protocol of HTTP with these deadlines.

    Attributes:
        seconds: until a connection has sent whole headers, and between bytes of an answer that a client takes.
        is_stopping: the server has been told to stop; of the class, as connections come in until the last moment.
    """

    seconds: float
    is_stopping = False
    _deadline: asyncio.TimerHandle | None = None
    _reader: asyncio.TimerHandle | None = None
    _head = 0

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._await_headers()
        if self.is_stopping:
            self.shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_reader()
        self._forget_headers()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._is_idle and self._deadline is None and self.timeout_keep_alive_task is None:
            self._await_headers()

    def _unsupported_upgrade_warning(self) -> None:  # uvicorn's recommends to install what would not be used
        self.logger.info("a client asked for a WebSocket; it is answered over HTTP")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head = 0

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._forget_headers()
        super().on_headers_complete()
        if self.is_stopping:
            self.cycle.keep_alive = False

    def shutdown(self) -> None:
        """Close the connection behind its answer, or after a moment: a request may be on its way already."""
        if self._is_idle:
            self.loop.call_later(LINGER, self._close_idle)
        else:
            super().shutdown()

    @property
    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _close_idle(self) -> None:
        if self._is_idle:
            self.transport.close()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._await_reader(sys.maxsize)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._forget_reader()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._await_reader(sys.maxsize)

    def _await_headers(self) -> None:
        self._deadline = self.loop.call_later(self.seconds, self.transport.abort)

    def _forget_headers(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _count(self, size: int) -> None:
        self._head += size
        if self._head > HEAD_BYTES:
            raise ValueError("the headers are too large")  # the parser makes status 400 of it

    def _await_reader(self, before: int) -> None:
        """End a connection whose client has taken nothing since; `before` is what there was to take then."""
        self._forget_reader()
        left = self.transport.get_write_buffer_size()
        if left >= before:
            self.transport.abort()
        elif left:
            self._reader = self.loop.call_later(self.seconds, self._await_reader, left)

    def _forget_reader(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
            self._reader = None


class DrainingServer(uvicorn.Server):
    """uvicorn's server, whose connections know that it stops, also those that it takes while it does."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Let SIGHUP, which a terminal that closes sends, stop it as SIGTERM does; where it is ignored (`nohup`), it
        remains so.
        """
        number = getattr(signal, "SIGHUP", None)  # Windows has none
        is_main = threading.current_thread() is threading.main_thread()
        if number is None or not is_main or signal.getsignal(number) is signal.SIG_IGN:
            with super().capture_signals():
                yield
            return
        with super().capture_signals():  # which sends what came to the former handlers, at its end
            former = signal.signal(number, self.handle_exit)
            try:
                yield
            finally:
                signal.signal(number, former)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop: take no new connection, answer what was taken, close the rest."""
        self.config.http.is_stopping = True  # type: ignore[union-attr]
        for _ in range(3):  # turns of the event loop in which connections that wait at the socket are taken
            await asyncio.sleep(0)
        await super().shutdown(sockets)


def uvicorn_options(settings: Settings) -> dict[str, Any]:
    """Return the options of uvicorn for a server with these settings."""
    return {
        "host": settings.host,
        "port": settings.port,
        "http": type("Protocol", (Deadlines,), {"seconds": settings.body_timeout}),
        "ws": "none",
        "log_config": None,
        "access_log": False,
        "server_header": False,
        "timeout_graceful_shutdown": round(settings.drain),
    }
