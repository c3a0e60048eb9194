"""uvicorn's HTTP/1.1 protocol, with what a long-lived answer needs of its connection.

It adds a bound on the request head, errors in the API's own form where no app runs yet, a call
back when the client leaves (cheaper than a task that waits for `http.disconnect`), and it cuts a
client off that does not read. A handler finds it as `scope["state"]["connection"]`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any, ClassVar

from uvicorn._types import ASGI3Application, ASGIReceiveCallable, ASGISendCallable, Scope
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)
from uvicorn.server import ServerState

from broker.config import Limits
from broker.errors import InferenceError
from edge.held import Held
from edge.http.reply import error_reply
from edge.http.response import Response
from edge.http.unread import Unread

# How many requests a client may send ahead of the answers.
PIPELINE = 16
# How long a client that was refused mid-request may go on sending.
LINGER_S = 2.0

_UPGRADE = re.compile(rb"(\r\n)(?=upgrade:)", re.IGNORECASE)


class Connection(HttpToolsProtocol):
    """One client connection; runs one request at a time."""

    limits: ClassVar[Limits]
    held: ClassVar[Held]

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._gone: Callable[[], object] | None = None
        self._running: RequestResponseCycle | None = None
        self.response: Response
        self._refused = False
        self._in_head = True
        self._first = 0  # bytes received with the beginning of the message
        self._later = 0  # bytes received after that
        self._received = 0
        self._unread: Unread

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._unread = Unread(transport, self.loop, self.held, self.limits.slow_reader_s)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread.begin()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._unread.end()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._unread.begin()  # else what is too little to pause would be kept for ever

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            self.loop.call_soon(self._unread.begin)  # not before the transport has tried

    @property
    def arrived(self) -> bool:
        """Whether some of the running request's body is there, so that reading it does not wait."""
        return self._running is not None and self._running.message_event.is_set()

    def watch(self, gone: Callable[[], object]) -> None:
        """Call `gone` once if the client leaves before `unwatch`."""
        self._gone = gone
        if self.transport.is_closing():
            self._lost()
        else:
            # Reading may be paused by a large body; without it the loss goes unnoticed.
            self.flow.resume_reading()

    def unwatch(self) -> None:
        """Forget what `watch` was told."""
        self._gone = None

    def abort(self) -> None:
        """Cut the client off now; what it has not read is lost."""
        self.transport.abort()

    def _lost(self) -> None:
        gone, self._gone = self._gone, None
        if gone is not None:
            gone()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        self.response = Response(cycle)
        cycle.send = self.response  # type: ignore[method-assign]
        super()._start_asgi_task(cycle, app)

    def connection_lost(self, exc: Exception | None) -> None:
        # uvicorn tells the newest request alone, which is not the running one where a client has
        # sent requests ahead.
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()
        super().connection_lost(exc)
        self._unread.end()
        self._lost()

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        if self._in_head and b"pgrade:" in data:
            data = _without_upgrade(data)
        self._received = len(data)
        self._later += self._received
        super().data_received(data)
        if self._in_head and self._later > self.limits.max_header_bytes and not self._refused:
            self._refuse(_head_too_large(self.limits.max_header_bytes))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._first = self._received
        self._later = 0
        self.scope["state"]["connection"] = self

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._in_head = True
        self._later = 0

    def on_headers_complete(self) -> None:
        self._in_head = False
        most = self._first + self._later
        if (
            most <= self.limits.max_header_bytes
            or self._head_size() <= self.limits.max_header_bytes
        ):
            super().on_headers_complete()
            if self._gone is not None and len(self.pipeline) < PIPELINE:
                # uvicorn stops reading while requests wait their turn; then the running one would
                # not learn that the client has left.
                self.flow.resume_reading()
            return
        app, self.app = self.app, self._too_large
        try:
            super().on_headers_complete()
        finally:
            self.app = app

    def _head_size(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    async def _too_large(
        self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        status, headers, body = _head_too_large(self.limits.max_header_bytes)
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP in the API's form of an error."""
        self._refuse(error_reply(InferenceError("invalid_request", msg)))

    def _refuse(self, reply: tuple[int, list[tuple[bytes, bytes]], bytes]) -> None:
        status, headers, body = reply
        lines = [STATUS_LINE[status]]
        for name, value in (*headers, (b"connection", b"close")):
            lines += (name, b": ", value, b"\r\n")
        self.transport.write(b"".join((*lines, b"\r\n", body)))
        # Closing while the client still sends would reset the connection, and with it the reply
        # that it has not read yet.
        self._refused = True
        self.transport.write_eof()
        self.loop.call_later(LINGER_S, self.transport.abort)

    def _unsupported_upgrade_warning(self) -> None:
        """Close after the reply: what follows a CONNECT is not HTTP, and the parser has stopped."""
        self.cycle.keep_alive = False


def _without_upgrade(data: bytes) -> bytes:
    """The first bytes of a request without its offer of another protocol, which HTTP may ignore.

    The parser would take what follows for that protocol and lose the body. Java's own client
    offers h2c with every first request.
    """
    head, end, body = data.partition(b"\r\n\r\n")
    return _UPGRADE.sub(rb"\1x-", head) + end + body


def _head_too_large(limit: int) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    error = InferenceError(
        "request_too_large", f"the request line and headers are larger than {limit} bytes"
    )
    _, headers, body = error_reply(error)
    return 431, headers, body


def protocol(limits: Limits, held: Held) -> type[Connection]:
    """The protocol class for `uvicorn.Config(http=...)`; `held` counts what clients do not read."""
    return type("Connection", (Connection,), {"limits": limits, "held": held})
