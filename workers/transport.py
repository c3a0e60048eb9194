"""An httpx transport over aiohttp: httpx's types and contract at a fraction of its cost.

Measured, CPU microseconds in the calling process (uvloop, Python 3.11, two shared cores, an asyncio
server as peer, medians of five interleaved runs; unary at 64 at once | a burst of 20 events in one
write | each of 50 events 20 ms apart on 64 streams):
    httpx.AsyncClient as it comes                1479 | 1857 | 112
    httpx.AsyncClient over httpx-aiohttp          362 |  361 |  32
    httpx-aiohttp's transport called directly     161 |  179 |  22
    this transport, as workers.upstream uses it   107 |  123 |  19
    aiohttp alone, without limits                  61 |   85 |  18
    65 lines over httptools, without limits        62 |   62 |  14
A parser and pool of our own would save 5 us a chunk and have to learn proxies, TLS and compression,
so aiohttp does the work. httpx-aiohttp is affordable but takes a lost connection for a connect
timeout, and knows no limit to the first byte, no stale connection, no deadline. What aiohttp lacks
is in the subclasses `_Wire` and `_Pool`, which reach into it: tests/workers/upstream holds them.

Beyond httpx's own `timeout` extension (connect, read), two request extensions, in seconds:
`first_byte` replaces `read` until the first byte of the body, `deadline` ends the whole call.
0 or nothing means no limit. Time in which the consumer keeps the socket from being read is not
counted as silence of the peer. A body comes decompressed, without its content-encoding header.
"""

from __future__ import annotations

import asyncio
import functools
import io
import math
import ssl
from typing import Any, Self

import aiohttp
import httpx
from aiohttp.client_proto import ResponseHandler
from yarl import URL

# Reading pauses at twice this: a body that nobody takes holds that and one read of the socket.
_READ_BUFFER = 256 << 10
_MAX_HEADER_LINE = 32 << 10
_MAX_HEADERS = 256
# aiohttp writes a file in pieces as the socket takes them, but bytes at once.
_LARGE_BODY = 512 << 10
_DECODED = ("gzip", "deflate", "br", "zstd")
# A connection that was closed while it was kept fails within a round trip.
_STALE_WITHIN = 1.0
# Loops round their timers to milliseconds, so one may ring this much early.
_TICK = 0.002


class StaleConnectionError(httpx.RemoteProtocolError):
    """A kept connection turned out to be closed: not one byte of an answer came on it."""


class DeadlineError(httpx.TimeoutException):
    """The `deadline` of the request passed."""


class _Stale(aiohttp.ServerDisconnectedError):
    pass


class _Deadline(aiohttp.ServerTimeoutError):
    pass


# An exception counts as the nearest of its ancestors that is listed.
EXCEPTIONS: dict[type[BaseException], type[httpx.RequestError]] = {
    _Stale: StaleConnectionError,
    _Deadline: DeadlineError,
    aiohttp.ConnectionTimeoutError: httpx.ConnectTimeout,
    aiohttp.ServerTimeoutError: httpx.ReadTimeout,
    aiohttp.ClientConnectorError: httpx.ConnectError,
    aiohttp.ServerFingerprintMismatch: httpx.ConnectError,
    aiohttp.ClientProxyConnectionError: httpx.ProxyError,
    aiohttp.ClientHttpProxyError: httpx.ProxyError,
    aiohttp.ServerDisconnectedError: httpx.RemoteProtocolError,
    aiohttp.ClientConnectionError: httpx.ReadError,
    aiohttp.ClientPayloadError: httpx.RemoteProtocolError,
    aiohttp.ClientResponseError: httpx.RemoteProtocolError,
    aiohttp.TooManyRedirects: httpx.TooManyRedirects,
    aiohttp.InvalidURL: httpx.UnsupportedProtocol,
    aiohttp.NonHttpUrlClientError: httpx.UnsupportedProtocol,
    aiohttp.ClientError: httpx.TransportError,
    # Outside aiohttp's tree: a header with a line break in it; a socket before aiohttp wraps it.
    ValueError: httpx.LocalProtocolError,
    OSError: httpx.ReadError,
}
_FOREIGN = (aiohttp.ClientError, ValueError, OSError)


def to_httpx(exc: BaseException) -> httpx.RequestError:
    """The httpx exception for one that aiohttp raised."""
    kind = next(EXCEPTIONS[base] for base in type(exc).__mro__ if base in EXCEPTIONS)
    said = exc.message if isinstance(exc, aiohttp.ClientResponseError) else str(exc)
    mapped = kind(said or type(exc).__name__)
    mapped.__cause__ = exc
    return mapped


class Body(httpx.AsyncByteStream):
    """A request body that is at hand; cheaper than letting httpx wrap it."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data

    async def __aiter__(self) -> Any:  # an async generator; httpx declares AsyncIterator[bytes]
        yield self.data


class _Timing(aiohttp.ClientTimeout):
    """What aiohttp hands on from a request to its connection, with our limits in it."""

    __slots__ = ("first_byte", "silence", "until")

    first_byte: float
    silence: float
    until: float

    def __init__(self, extensions: Any, now: float) -> None:
        limits = extensions.get("timeout") or {}
        connect: float = limits.get("connect") or 0
        silence: float = limits.get("read") or 0
        deadline: float = extensions.get("deadline") or 0
        if deadline:
            connect = min(connect or deadline, deadline)
        super().__init__(total=None, connect=connect or None, ceil_threshold=math.inf)
        # The base class is frozen.
        object.__setattr__(self, "silence", silence)
        object.__setattr__(self, "first_byte", extensions.get("first_byte", silence) or 0)
        object.__setattr__(self, "until", now + deadline if deadline else math.inf)


class _Wire(ResponseHandler):
    """A connection that knows whether it was used before, and how long it may be quiet.

    One timer per request, pushed forward only when it rings: nothing is started per chunk.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._requests = 0
        self._answered = False
        self._idle = False
        self._flowing = False
        self._timing: _Timing | None = None
        self._begun = self._heard = 0.0
        self._alarm: asyncio.TimerHandle | None = None
        self._verdict: BaseException | None = None

    def begin(self, timing: _Timing) -> None:
        """A request takes the connection."""
        self._requests += 1
        self._answered = self._idle = self._flowing = False
        self._timing = timing
        self._begun = self._heard = self._loop.time()
        self._set_alarm(timing.first_byte)

    def flow(self) -> None:
        """The body has begun: from now on silence counts from the last byte."""
        timing = self._timing
        if not self._flowing and timing is not None:
            self._flowing = True
            self._heard = self._loop.time()
            self._set_alarm(timing.silence)

    def rest(self) -> None:
        """The request is over: whatever comes now was not asked for."""
        self._idle = True
        self._drop_alarm()

    def _set_alarm(self, patience: float) -> None:
        self._drop_alarm()
        timing = self._timing
        if timing is None:
            return
        when = min(timing.until, self._heard + patience if patience else math.inf)
        if when < math.inf:
            self._alarm = self._loop.call_at(when, self._ring, patience)

    def _drop_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def _ring(self, patience: float) -> None:
        now = self._loop.time() + _TICK
        if self._timing is not None and now >= self._timing.until:
            self._give_up(_Deadline("the deadline passed"))
            return
        if self._reading_paused:
            self._heard = now
        if patience and now >= self._heard + patience:
            self._give_up(aiohttp.SocketTimeoutError(f"nothing came for {patience:g} s"))
        else:
            self._set_alarm(patience)

    def _give_up(self, verdict: BaseException) -> None:
        self._verdict = verdict
        payload = self._payload
        self.set_exception(verdict)
        if payload is not None:
            payload.set_exception(verdict)
        if self.transport is not None:
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        if data:
            if self._idle:
                # Such as "408 Request Timeout": the next request must not take it for its answer.
                self.abort()
                return
            self._answered = True
            if self._flowing:
                self._heard = self._loop.time()
        super().data_received(data)

    def resume_reading(self, resume_parser: bool = True) -> None:
        # Called for every chunk that is taken, and feeds the parser nothing if nothing was paused.
        if self._reading_paused:
            super().resume_reading(resume_parser)

    def set_exception(self, exc: BaseException, *args: Any) -> None:
        if self._looks_stale() and isinstance(exc, _LOST):
            exc, args = _Stale("the kept connection was closed"), (exc,)
        super().set_exception(exc, *args)

    def _looks_stale(self) -> bool:
        # Later than that, the peer may well have read the request and died of it.
        recent = self._loop.time() < self._begun + _STALE_WITHIN
        return self._requests > 1 and not self._answered and recent

    def connection_lost(self, exc: BaseException | None) -> None:
        self._drop_alarm()
        payload = self._payload
        if payload is None or payload.is_eof():
            super().connection_lost(exc)
            return
        lost = self._verdict
        if lost is None and exc is not None:
            # A body that ends with its connection is whole only if that was closed in order.
            lost = aiohttp.ClientPayloadError(f"the connection was lost: {exc}")
        if lost is not None:
            payload.set_exception(lost)
        super().connection_lost(exc)
        if self._verdict is not None:
            payload.set_exception(self._verdict)
        elif payload.exception() is None and not payload.is_eof():
            # After bytes that are no HTTP, aiohttp tells nobody who waits for the body.
            payload.set_exception(aiohttp.ClientPayloadError("the body was no valid HTTP"))

    def close(self) -> None:
        payload = self._payload
        if payload is not None and not payload.is_eof() and payload.exception() is None:
            # Closing the pool would otherwise leave who reads a body waiting for ever.
            payload.set_exception(aiohttp.ClientConnectionError("the connection was closed"))
        # An orderly close waits for what is not yet written, and that for a peer that reads.
        self.abort()


_LOST = (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError)


class _Pool(aiohttp.TCPConnector):
    """Connections per origin; the one used last is used first, so that the others can expire."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._factory: Any = functools.partial(_Wire, loop=self._loop)

    async def connect(self, req: Any, traces: Any, timeout: aiohttp.ClientTimeout) -> Any:
        connection = await super().connect(req, traces, timeout)
        if isinstance(connection.protocol, _Wire) and isinstance(timeout, _Timing):
            connection.protocol.begin(timeout)
        return connection

    def _release(self, key: Any, protocol: ResponseHandler, *, should_close: bool = False) -> None:
        if isinstance(protocol, _Wire):
            protocol.rest()
        super()._release(key, protocol, should_close=should_close)
        kept = self._conns.get(key)
        if kept and kept[-1][0] is protocol:
            kept.rotate(1)

    def drop_idle(self) -> None:
        """Close what is not in use."""
        for kept in self._conns.values():
            for protocol, _ in kept:
                protocol.close()
        self._conns.clear()


class _Answer(httpx.AsyncByteStream):
    """The body of an answer: whatever has come is one chunk."""

    __slots__ = ("_answer", "_begun", "_content", "_failure")

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self._answer = answer
        self._content = answer.content
        self._begun = False
        self._failure: httpx.RequestError | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if self._failure is not None:
            raise self._failure
        try:
            data = await self._content.readany()
        except _FOREIGN as exc:
            self._failure = to_httpx(exc)
            # What came before the failure may hold the end of the answer, or its reason.
            data = self._content._read_nowait(-1)
            if not data:
                raise self._failure from exc
        if not data:
            raise StopAsyncIteration
        if not self._begun:
            self._begun = True
            # None when the body is whole: then the connection may be another request's already.
            connection = self._answer.connection
            if connection is not None and isinstance(connection.protocol, _Wire):
                connection.protocol.flow()
        return data

    async def aclose(self) -> None:
        self._answer.release()


class AiohttpTransport(httpx.AsyncBaseTransport):
    """`verify` None is aiohttp's own trust; `proxy` is an http or https URL."""

    def __init__(
        self,
        *,
        verify: ssl.SSLContext | None = None,
        proxy: str | None = None,
        max_connections: int = 1000,
        keepalive_s: float = 30.0,
    ) -> None:
        self._options = {
            "ssl": True if verify is None else verify,
            "limit": max_connections,
            "keepalive_timeout": keepalive_s,
        }
        self._proxy = proxy
        self._pool: _Pool | None = None
        self._session: aiohttp.ClientSession | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        session = self._session or self._open()
        stream = request.stream
        data: Any = stream.data if isinstance(stream, Body) else await request.aread()
        if len(data) > _LARGE_BODY:
            data = io.BytesIO(data)
        clock = asyncio.get_running_loop().time
        timing = _Timing(request.extensions, clock())
        try:
            answer = await session.request(
                request.method,
                URL(str(request.url), encoded=True),
                data=data or None,
                headers=[
                    (k.decode("latin-1"), v.decode("latin-1")) for k, v in request.headers.raw
                ],
                allow_redirects=False,
                proxy=self._proxy,
                timeout=timing,
            )
        except _FOREIGN as exc:
            if isinstance(exc, _Stale) and self._pool is not None:
                # The others were closed with it, most likely, and the next try needs a new one.
                self._pool.drop_idle()
            if isinstance(exc, TimeoutError) and clock() + _TICK >= timing.until:
                raise DeadlineError("the deadline passed") from exc
            raise to_httpx(exc) from exc
        headers = answer.raw_headers
        if answer.headers.get("content-encoding", "").lower() in _DECODED:
            gone = (b"content-encoding", b"content-length")
            headers = tuple(pair for pair in headers if pair[0].lower() not in gone)
        return httpx.Response(answer.status, headers=headers, stream=_Answer(answer))

    def _open(self) -> aiohttp.ClientSession:
        self._pool = _Pool(**self._options)
        self._session = aiohttp.ClientSession(
            connector=self._pool,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),
            read_bufsize=_READ_BUFFER,
            max_line_size=_MAX_HEADER_LINE,
            max_field_size=_MAX_HEADER_LINE,
            max_headers=_MAX_HEADERS,
        )
        return self._session

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()
