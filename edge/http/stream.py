"""Sends one answer in pieces: starts late, keeps alive, gives up on who does not read."""

from __future__ import annotations

import asyncio
import logging

from starlette.types import Send

from broker.config import Limits
from broker.translate.form import Stream
from edge.http.call import Call
from edge.http.reply import Header

_HEADERS: tuple[Header, ...] = (
    (b"cache-control", b"no-cache"),
    # Asks nginx, which buffers by default, to pass events on as they come.
    (b"x-accel-buffering", b"no"),
)
# Timers count in milliseconds and may fire a little early.
_EARLY_S = 0.002

_log = logging.getLogger(__name__)


class EventStream:
    """Writes events to the client. One timer and no task per stream.

    The response starts with the first `write`, or with the first keep-alive comment: until then an
    error can still be a real HTTP status.
    """

    def __init__(self, call: Call, send: Send, limits: Limits, events: Stream) -> None:
        self._call = call
        self._events = events
        self._send = send
        self._keepalive_s = limits.keepalive_s
        self._patience_s = limits.slow_reader_s
        self._loop = call.connection.loop
        self._last = self._loop.time()
        self._blocked_since: float | None = None
        self._comment: asyncio.Task[None] | None = None
        self._period = min(self._keepalive_s, self._patience_s)
        self._timer = self._loop.call_later(self._period, self._tick)

    @property
    def open(self) -> bool:
        """Whether the response has started and somebody is there to read it."""
        return self._call.started and not self._call.gone

    async def start(self, headers: list[Header]) -> None:
        """Send the status line and headers; nothing goes over the wire before the first event."""
        self._call.started = True
        self._call.status = 200
        headers.append((b"content-type", self._events.content_type))
        headers.extend(_HEADERS)
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})

    async def write(self, data: bytes, *, last: bool = False) -> None:
        """Send whole events; waits while the client reads slowly. `last` ends the response."""
        self._last = self._blocked_since = self._loop.time()
        await self._send({"type": "http.response.body", "body": data, "more_body": not last})
        self._blocked_since = None

    @property
    def clear(self) -> bool:
        """Whether `put` may be called: the response has begun and the client keeps up."""
        return self._blocked_since is None and self._call.connection.response.clear

    def put(self, data: bytes) -> None:
        """`write` without waiting, while `clear`."""
        self._last = self._loop.time()
        self._call.connection.response.put(data)

    def _tick(self) -> None:
        now = self._loop.time()
        if self._blocked_since is None:
            due = self._last + self._keepalive_s
            if now >= due - _EARLY_S:
                if self._events.keep_alive:
                    self._comment = self._loop.create_task(self._keep_alive())
                due = now + self._keepalive_s
        else:
            due = self._blocked_since + self._patience_s
            if now >= due - _EARLY_S:
                _log.info(
                    "dropped a client that did not read for %g s",
                    self._patience_s,
                    extra={"request_id": self._call.request_id},
                )
                self._call.connection.abort()
                return
        self._timer = self._loop.call_at(min(due, now + self._period), self._tick)

    async def _keep_alive(self) -> None:
        if not self._call.started:
            await self.start(self._call.answer_headers(None))
        await self.write(self._events.keep_alive)

    def close(self) -> None:
        """Stop the timer."""
        self._timer.cancel()
        if self._comment is not None:
            self._comment.cancel()
