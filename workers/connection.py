"""One HTTP/1.1 connection to a provider: writes a request, parses its answer, keeps its limits.

httptools parses. An answer is taken in one of two ways: chunk by chunk (`take`), or pushed
(`push`): then a function is called with what came from within the read of the socket, so that no
task has to be woken for each chunk. When nobody takes, reading stops at about half a megabyte.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import zlib
from collections.abc import AsyncGenerator, AsyncIterable, Callable
from typing import NamedTuple, cast

import httptools
import httpx

from workers.inflate import Inflate, inflated

Sink = Callable[[bytes], bool]

# Reading stops above this; one read of the socket adds up to 256 KB.
_MAX_WAITING = 512 << 10
_MAX_HEAD = 32 << 10
_MAX_HEADERS = 256
# A connection that was closed while it was kept fails within a round trip.
_STALE_WITHIN = 1.0
# Loops round their timers to milliseconds, so one may ring this much early.
TICK = 0.002


class StaleConnectionError(httpx.RemoteProtocolError):
    """A kept connection turned out to be closed: not one byte of an answer came on it."""


class DeadlineError(httpx.TimeoutException):
    """The `deadline` of the request passed."""


class Timing(NamedTuple):
    """Seconds of silence that are borne before and after the first byte of the body, 0 = any.

    `until` is the deadline, by the loop's clock. With `token` the call of `settle` counts in place
    of the first byte.
    """

    first_byte: float
    silence: float
    until: float
    token: bool = False


class Connection(asyncio.Protocol):
    """See the module; `gone` is called once, when the connection is lost."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, gone: Callable[[Connection], object]
    ) -> None:
        self._loop = loop
        self._gone = gone
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._lost = False
        self._requests = 0
        # Of the running request; without `_timing` there is none.
        self._timing: Timing | None = None
        self._begun = self._heard = 0.0
        self._patience = 0.0
        self._answered = self.complete = self._reusable = False
        self._head_done = self._flowing = self._settled = self._paused = False
        # The peer takes no more for now; a body is not yet written to its end.
        self._full = self._sending = False
        self._head_size = 0
        self._chunks: list[bytes] = []
        self._waiting = 0
        self._inflate: Inflate | None = None
        self._failure: httpx.RequestError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._sink: Sink | None = None
        self._sink_error: Exception | None = None
        # One timer for all requests in turn, moved forward only when it rings.
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = math.inf
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.idle_since = 0.0

    # A request.

    async def request(
        self, head: bytes, body: bytes | AsyncIterable[bytes], timing: Timing
    ) -> None:
        """Write a request and wait for the head of its answer: `status` and `headers`.

        A body that comes in pieces is written as fast as the peer takes it, and no further than to
        an answer that comes before its end.
        """
        transport = self._transport
        assert transport is not None  # noqa: S101  # it is connected
        self._requests += 1
        self._timing = timing
        self._begun = self._heard = self._loop.time()
        self._patience = timing.first_byte
        self._answered = self.complete = self._reusable = False
        self._head_done = self._flowing = self._settled = self._sending = False
        self._head_size = 0
        self.headers = []
        self._watch()
        if not isinstance(body, bytes):
            transport.write(head)
            await self._send(transport, body)
        elif len(body) < _MAX_WAITING:
            transport.write(head + body)
        else:
            transport.write(head)
            transport.write(body)
        while not self._head_done:
            if self._failure is not None:
                raise self._failure
            await self._wait()

    async def _send(self, transport: asyncio.Transport, body: AsyncIterable[bytes]) -> None:
        self._sending = True
        async with contextlib.aclosing(cast("AsyncGenerator[bytes]", aiter(body))) as pieces:
            async for piece in pieces:
                if self._head_done or self._failure is not None:
                    return
                transport.write(piece)
                while self._full and not self._head_done and self._failure is None:
                    await self._wait()
                # The peer reads: that is no silence.
                self._heard = self._loop.time()
        self._sending = False

    async def take(self) -> bytes:
        """What has come of the body since the last time; empty at its end."""
        while not self._chunks:
            if self._failure is not None:
                raise self._failure
            if self.complete:
                return b""
            await self._wait()
        return self._taken()

    async def push(self, sink: Sink) -> bool:
        """Call `sink` with what comes until it returns False, or the body ends: then True."""
        if self._chunks and not sink(self._taken()):
            return False
        while not self.complete:
            if self._failure is not None:
                raise self._failure
            self._sink = sink
            try:
                await self._wait()
            finally:
                stopped, self._sink = self._sink is None, None
            if self._sink_error is not None:
                error, self._sink_error = self._sink_error, None
                raise error
            if stopped:
                return False
        return True

    def settle(self) -> None:
        """What was waited for has come: from now on silence counts from the last byte."""
        if self._timing is None or self._settled:
            return
        self._settled = True
        self._heard = self._loop.time()
        self._patience = self._timing.silence
        self._watch()

    def release(self) -> bool:
        """End the request; True when the connection can take another one, else it is closed."""
        self._timing = self._sink = self._sink_error = self._inflate = None
        self._chunks = []
        self._waiting = 0
        transport = self._transport
        if (
            self.complete
            and self._reusable
            and not (self._lost or self._sending)
            and self._failure is None
            and transport is not None
            and not transport.get_write_buffer_size()
        ):
            self._resume()
            return True
        self.abort()
        return False

    def abort(self) -> None:
        """Close at once: an orderly close waits for a peer that reads."""
        if self._transport is not None:
            self._transport.abort()

    def cut(self) -> None:
        """Close, and tell whoever waits for an answer."""
        self._fail(httpx.ReadError("the connection was closed"))

    @property
    def usable(self) -> bool:
        return not (self._lost or self._transport is None or self._transport.is_closing())

    async def _wait(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _taken(self) -> bytes:
        chunks, self._chunks = self._chunks, []
        self._waiting = 0
        if self._paused:
            self._resume()
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def _resume(self) -> None:
        if self._paused:
            self._paused = False
            self._heard = self._loop.time()
            if self._transport is not None:
                self._transport.resume_reading()

    # Limits.

    def _watch(self) -> None:
        """Have the alarm ring no later than the next limit."""
        timing = self._timing
        if timing is None:
            return
        when = timing.until
        if self._patience:
            when = min(when, self._heard + self._patience)
        if when < self._alarm_at:
            if self._alarm is not None:
                self._alarm.cancel()
            self._alarm = self._loop.call_at(when, self._ring)
            self._alarm_at = when

    def _ring(self) -> None:
        self._alarm = None
        self._alarm_at = math.inf
        if self._timing is None or self.complete:
            return
        now = self._loop.time() + TICK
        if self._paused:
            # Our own slowness is not the peer's silence.
            self._heard = now
        if now >= self._timing.until:
            self._fail(DeadlineError("the deadline passed"))
        elif self._patience and now >= self._heard + self._patience:
            self._fail(httpx.ReadTimeout(f"nothing came for {self._patience:g} s"))
        else:
            self._watch()

    def _fail(self, failure: httpx.RequestError) -> None:
        if self._failure is None and not self.complete:
            self._failure = failure
        self.abort()
        self._wake()

    # What the loop calls.

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        self._wake()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's are none by class.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self._timing is None:
            # Such as "408 Request Timeout": the next request must not take it for its answer.
            self.abort()
            return
        self._answered = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._reusable = False
        except httptools.HttpParserError as exc:
            self._fail(_no_http(exc))
        if not self._head_done:
            self._head_size += len(data)
            if self._head_size > _MAX_HEAD:
                self._fail(httpx.RemoteProtocolError("the headers are too large"))
        if self._settled:
            self._heard = self._loop.time()
        if self._sink is not None and self._chunks:
            self._feed_sink(self._sink)
        if self._sink is None or self.complete:
            self._wake()
        if self._waiting > _MAX_WAITING and not (self._paused or self.complete):
            self._paused = True
            if self._transport is not None:
                self._transport.pause_reading()

    def _feed_sink(self, sink: Sink) -> None:
        try:
            if not sink(self._taken()):
                self._sink = None
        except Exception as exc:  # noqa: BLE001
            # It is the caller's, who waits in `push`.
            self._sink_error = exc
            self._sink = None

    def eof_received(self) -> None:
        self._end(None)
        self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        self._end(exc)
        self._gone(self)

    def _end(self, exc: Exception | None) -> None:
        if self._timing is None or self.complete or self._failure is not None:
            return
        if self._head_done and exc is None and self._ends_with_connection():
            self._finish()
        elif (
            # Later than that, the peer may well have read the request and died of it.
            self._requests > 1
            and not self._answered
            and self._loop.time() < self._begun + _STALE_WITHIN
        ):
            self._failure = StaleConnectionError("the kept connection was closed")
        elif exc is not None:
            self._failure = httpx.ReadError(f"the connection was lost: {exc}")
        else:
            self._failure = httpx.RemoteProtocolError("the connection was closed")
        if self._failure is not None:
            self._failure.__cause__ = exc
        self._wake()

    def _ends_with_connection(self) -> bool:
        names = {name.lower() for name, _ in self.headers}
        return not names & {b"content-length", b"transfer-encoding"}

    # What the parser calls.

    def on_message_begin(self) -> None:
        if self.complete:
            # More than was asked for: not the beginning of the next answer.
            self._reusable = False
            raise ValueError("there is more than one answer")

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if 100 <= status < 200 and status != 101:
            self.headers = []
            return
        size = sum([len(name) + len(value) for name, value in self.headers])
        if size > _MAX_HEAD or len(self.headers) > _MAX_HEADERS:
            raise ValueError("the headers are too large")
        self.status = status
        self._head_done = True
        self.headers, self._inflate = inflated(self.headers)

    def on_body(self, data: bytes) -> None:
        if not self._flowing:
            self._flowing = True
            if self._timing is not None and not self._timing.token:
                self.settle()
        if self._inflate is not None:
            data = self._inflate.feed(data)
        if data:
            self._chunks.append(data)
            self._waiting += len(data)

    def on_message_complete(self) -> None:
        if self._head_done and not self.complete:
            self._finish()
            self._reusable = self._failure is None and self._parser.should_keep_alive()

    def _finish(self) -> None:
        if self._inflate is not None and self._flowing and not self._inflate.over:
            self._failure = httpx.DecodingError("the compressed body was cut off")
        else:
            self.complete = True


def _no_http(exc: httptools.HttpParserError) -> httpx.RequestError:
    why = exc.__context__ or exc
    kind = httpx.DecodingError if isinstance(why, zlib.error) else httpx.RemoteProtocolError
    failure = kind(str(why))
    failure.__cause__ = why
    return failure
