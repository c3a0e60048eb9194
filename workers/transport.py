"""An httpx transport for HTTP/1.1 with connections of its own: httpx's types at little cost.

CPU microseconds of an attempt in the worker, without queue and delivery (uvloop, Python 3.11, two
shared cores, the simulator as peer; unary at 64 at once | 20 chunks in one write | each of 50
chunks 20 ms apart on 16 streams):
    over aiohttp's connections                       227 | 330 | 58
    over these, chunks pulled                        176 | 291 | 56
    chunks pushed, plain text decoded the short way  162 | 240 | 40
Medians of two runs, not interleaved; other work came and went on the machine.

Beyond httpx's own `timeout` extension (connect, read), two request extensions, in seconds:
`first_byte` replaces `read` until the first byte of the body, or with `first_token` until its
reader says that a token came, `deadline` ends the whole call.
0 or nothing means no limit. Time in which the consumer keeps the socket from being read is not
counted as silence of the peer. A third, `upload`, is a request body that comes in pieces.
A body comes decompressed, without its content-encoding header.
Methods whose answers have no body although their headers speak of one (HEAD) are not for it.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import math
import socket
import ssl
from collections.abc import AsyncIterable, AsyncIterator, Iterator
from typing import Any, Self, cast
from urllib.parse import unquote

import aiohappyeyeballs
import httpx

from workers.connection import Connection, DeadlineError, Sink, StaleConnectionError, Timing
from workers.pool import Origin, Pool

__all__ = ["Answer", "Body", "DeadlineError", "StaleConnectionError", "Transport"]

# One address gets this long before the next is tried beside it (RFC 8305).
_NEXT_ADDRESS_S = 0.25
_MAX_PROXY_HEAD = 16 << 10
_PORTS = {"http": 80, "https": 443}


class Body(httpx.AsyncByteStream):
    """A request body that is at hand; cheaper than letting httpx wrap it."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self.data


class Answer(httpx.AsyncByteStream):
    """The body of an answer: whatever has come is one chunk."""

    __slots__ = ("_connection", "_pool")

    def __init__(self, connection: Connection, pool: Pool) -> None:
        self._connection: Connection | None = connection
        self._pool = pool

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        data = await self._open().take()
        if not data:
            raise StopAsyncIteration
        return data

    async def push(self, sink: Sink) -> bool:
        """Call `sink` with what comes until it returns False, or the body ends: then True."""
        return await self._open().push(sink)

    def settle(self) -> None:
        """The first token has come."""
        self._open().settle()

    @property
    def ended(self) -> bool:
        """The whole body has come."""
        return self._connection is not None and self._connection.complete

    async def aclose(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._pool.release(connection)

    def _open(self) -> Connection:
        if self._connection is None:
            raise httpx.ReadError("the answer was let go")
        return self._connection


class Transport(httpx.AsyncBaseTransport):
    """`verify` None is httpx's own trust; `proxy` is an http or https URL."""

    def __init__(
        self,
        *,
        verify: ssl.SSLContext | None = None,
        proxy: str | None = None,
        max_connections: int = 1000,
        keepalive_s: float = 30.0,
    ) -> None:
        self._pool = Pool(max_connections, keepalive_s)
        self._verify = verify
        self._proxy = None if proxy is None else httpx.URL(proxy)
        self._proxy_auth = b""
        if self._proxy is not None and self._proxy.userinfo:
            login = base64.b64encode(unquote(self._proxy.userinfo.decode()).encode())
            self._proxy_auth = b"proxy-authorization: Basic " + login + b"\r\n"

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url
        stream = request.stream
        data: bytes | AsyncIterable[bytes] | None = request.extensions.get("upload")
        if data is None:
            data = stream.data if isinstance(stream, Body) else await request.aread()
        origin = Origin(url.scheme, url.host, url.port or _PORTS.get(url.scheme, 0))
        if not (origin.host and origin.scheme in _PORTS):
            raise httpx.UnsupportedProtocol("no http or https URL")
        head = self._head(request)
        limits = request.extensions
        timeout = limits.get("timeout") or {}
        silence: float = timeout.get("read") or 0.0
        deadline: float = limits.get("deadline") or 0.0
        until = asyncio.get_running_loop().time() + deadline if deadline else math.inf
        first_byte: float = limits.get("first_byte", silence) or 0.0
        timing = Timing(first_byte, silence, until, bool(limits.get("first_token")))
        connection = self._pool.take(origin)
        if connection is None:
            connection = await self._connect(origin, timeout.get("connect") or math.inf, until)
        try:
            await connection.request(head, data, timing)
        except BaseException as exc:
            self._pool.release(connection)
            if isinstance(exc, StaleConnectionError):
                # The others were closed with it, most likely, and the next try needs a new one.
                self._pool.drop_idle()
            raise
        return httpx.Response(
            connection.status, headers=connection.headers, stream=Answer(connection, self._pool)
        )

    async def aclose(self) -> None:
        await self._pool.close()

    def _head(self, request: httpx.Request) -> bytes:
        url = request.url
        target = url.raw_path
        tail = b"\r\n"
        if self._proxy is not None and url.scheme == "http":
            target = b"http://" + url.netloc + target
            tail = self._proxy_auth + tail
        lines = [b"%s %s HTTP/1.1" % (request.method.encode(), target)]
        lines += [b"%s: %s" % pair for pair in request.headers.raw]
        head = b"\r\n".join(lines)
        if head.count(b"\n") != len(lines) - 1 or head.count(b"\r") != len(lines) - 1:
            raise httpx.LocalProtocolError("a header has a line break in it")
        return head + b"\r\n" + tail

    async def _connect(self, origin: Origin, patience: float, until: float) -> Connection:
        now = asyncio.get_running_loop().time()
        limit = min(now + patience, until)
        try:
            async with asyncio.timeout_at(limit if limit < math.inf else None):
                connection = await self._pool.room(origin)
                if connection is not None:
                    return connection
                try:
                    connection = await self._new(origin)
                except BaseException:
                    self._pool.not_opened()
                    raise
        except TimeoutError as exc:
            if until <= now + patience:
                raise DeadlineError("the deadline passed") from exc
            raise httpx.ConnectTimeout("no connection in time") from exc
        self._pool.opened(connection, origin)
        return connection

    async def _new(self, origin: Origin) -> Connection:
        loop = asyncio.get_running_loop()
        with _mapped(httpx.ConnectError):
            if self._proxy is not None:
                return await self._through(self._proxy, origin)
            tls = self._trust() if origin.scheme == "https" else None
            connection = Connection(loop, self._pool.gone)
            await _dial(origin, connection, tls)
            return connection

    async def _through(self, proxy: httpx.URL, origin: Origin) -> Connection:
        """A connection to a proxy; where it is to be encrypted, through its tunnel."""
        loop = asyncio.get_running_loop()
        hop = Origin(proxy.scheme, proxy.host, proxy.port or _PORTS[proxy.scheme])
        tls = self._trust() if hop.scheme == "https" else None
        connection = Connection(loop, self._pool.gone)
        if origin.scheme == "http":
            with _mapped(httpx.ProxyError, "the proxy cannot be reached"):
                await _dial(hop, connection, tls)
            return connection
        tunnel = _Tunnel(loop)
        with _mapped(httpx.ProxyError, "the proxy cannot be reached"):
            await _dial(hop, tunnel, tls)
        try:
            await tunnel.open(origin, self._proxy_auth)
            transport: Any = await loop.start_tls(
                tunnel.transport, connection, self._trust(), server_hostname=origin.host
            )
        except BaseException:
            tunnel.transport.abort()
            raise
        connection.connection_made(transport)
        return connection

    def _trust(self) -> ssl.SSLContext:
        if self._verify is None:
            self._verify = httpx.create_ssl_context()
        return self._verify


class _Tunnel(asyncio.Protocol):
    """Asks a proxy for a tunnel."""

    transport: asyncio.Transport

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._head = b""
        self._answered: asyncio.Future[bytes] = loop.create_future()

    async def open(self, origin: Origin, auth: bytes) -> None:
        """Raises `httpx.ProxyError` when it refuses."""
        host = f"[{origin.host}]" if ":" in origin.host else origin.host
        place = b"%s:%d" % (host.encode(), origin.port)
        line = b"CONNECT %s HTTP/1.1\r\nhost: %s\r\n%s\r\n" % (place, place, auth)
        self.transport.write(line)
        status = await self._answered
        if not status.startswith((b"HTTP/1.1 2", b"HTTP/1.0 2")):
            raise httpx.ProxyError(status.partition(b" ")[2].decode("latin-1") or "no tunnel")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._head += data
        if b"\r\n\r\n" in self._head or len(self._head) > _MAX_PROXY_HEAD:
            self._answer(self._head.partition(b"\r\n")[0])

    def connection_lost(self, exc: Exception | None) -> None:
        self._answer(b"")

    def _answer(self, status: bytes) -> None:
        if not self._answered.done():
            self._answered.set_result(status)


async def _dial(origin: Origin, protocol: asyncio.Protocol, tls: ssl.SSLContext | None) -> None:
    """Connect a protocol, to whichever of the host's addresses answers first."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)
    sock = await aiohappyeyeballs.start_connection(
        found, happy_eyeballs_delay=_NEXT_ADDRESS_S, interleave=1, loop=loop
    )
    try:
        await loop.create_connection(
            lambda: protocol,
            sock=sock,
            ssl=tls,
            server_hostname=origin.host if tls is not None else None,
        )
    except BaseException:
        sock.close()
        raise


@contextlib.contextmanager
def _mapped(kind: type[httpx.RequestError], said: str = "") -> Iterator[None]:
    """Failures to connect as httpx's."""
    try:
        yield
    except TimeoutError:
        raise
    except (OSError, ssl.CertificateError) as exc:
        raise kind(said or str(exc)) from exc
