"""A peer that does on a real socket what a test's script says."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

from workers.upstream import Reply, Upstream

# Made for these tests: provider.test and 127.0.0.1, self-signed, valid from 2020 to 2120.
CERTIFICATE = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgGskXd8uttSyG3kxd
jw6lgs9h1SBjoPEMfCi6GEUpIl+hRANCAAR876DBgB3v9p1qh+scUqmE01YUWBq8
f5P2+sKlXQX+OHkbc4O3ixrhnx9yyU8LrZVAZz8sX0V9tM3jfFf5TYQR
-----END PRIVATE KEY-----
-----BEGIN CERTIFICATE-----
MIIBfjCCASSgAwIBAgIBATAKBggqhkjOPQQDAjAYMRYwFAYDVQQDDA1wcm92aWRl
ci50ZXN0MCAXDTIwMDEwMTAwMDAwMFoYDzIxMjAwMTAxMDAwMDAwWjAYMRYwFAYD
VQQDDA1wcm92aWRlci50ZXN0MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEfO+g
wYAd7/adaofrHFKphNNWFFgavH+T9vrCpV0F/jh5G3ODt4sa4Z8fcslPC62VQGc/
LF9FfbTN43xX+U2EEaNdMFswDwYDVR0TAQH/BAUwAwEB/zApBgNVHREEIjAggg1w
cm92aWRlci50ZXN0gglsb2NhbGhvc3SHBH8AAAEwHQYDVR0OBBYEFOnIg3BSh+jB
CvBXzP0NhyRozEoIMAoGCCqGSM49BAMCA0gAMEUCIQDP3wAjWrLvqWJXrZ00vmQn
hODBilsvlI6jukr8zqApFQIgSGm9FtVdC/iXpB/rr/VZ0mWuk7LiCc1d5Ey6rcXa
xEw=
-----END CERTIFICATE-----
"""


@dataclass
class Received:
    """One request as it came."""

    line: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Connection:
    """One connection to the peer, `number` counts from 0."""

    number: int
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    requests: list[Received] = field(default_factory=list)
    gone_at: float | None = None

    async def request(self) -> Received:
        """The next request, read whole; EOFError when there is none."""
        lines = (await self.head()).decode("latin-1").split("\r\n")
        headers = {}
        for line in filter(None, lines[1:]):
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        self.requests.append(Received(lines[0], headers, body))
        return self.requests[-1]

    async def head(self) -> bytes:
        return await self.reader.readuntil(b"\r\n\r\n")

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self, body: bytes = b"ok", *headers: str) -> None:
        lines = ["HTTP/1.1 200 OK", f"content-length: {len(body)}", *headers]
        await self.send("\r\n".join(lines).encode() + b"\r\n\r\n" + body)

    async def start(self, *headers: str) -> None:
        """Headers of a chunked answer."""
        lines = ["HTTP/1.1 200 OK", "transfer-encoding: chunked", *headers]
        await self.send("\r\n".join(lines).encode() + b"\r\n\r\n")

    async def chunk(self, data: bytes) -> None:
        await self.send(b"%x\r\n%s\r\n" % (len(data), data))

    async def gone(self) -> None:
        """Wait until the other side has closed."""
        with contextlib.suppress(OSError):
            while await self.reader.read(65536):
                pass
        self.gone_at = asyncio.get_running_loop().time()

    def reset(self) -> None:
        """Close with an RST."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Script = Callable[[Connection], Awaitable[None]]


class Peer:
    """Listens on 127.0.0.1 and runs `script` on each connection; when that returns, it closes."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self.connections: list[Connection] = []
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def requests(self) -> list[Received]:
        return [request for connection in self.connections for request in connection.requests]

    def abort(self) -> None:
        """Drop every connection."""
        for connection in self.connections:
            connection.writer.transport.abort()

    async def run(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(len(self.connections), reader, writer)
        self.connections.append(connection)
        try:
            await self._script(connection)
        except (EOFError, OSError):
            pass  # the other side has gone: what the test then says of it is its business
        finally:
            writer.close()

    async def until(self, done: Callable[[], object], within: float = 2.0) -> None:
        async with asyncio.timeout(within):
            while not done():
                await asyncio.sleep(0.005)


class Serve(Protocol):
    """`await serve(script)` gives a listening peer."""

    async def __call__(self, script: Script, tls: ssl.SSLContext | None = None) -> Peer: ...


class Connect(Protocol):
    """`connect(url, ...)` gives an Upstream: `keys`, `transport` and such, or facts of a Provider."""

    def __call__(self, url: str, **options: object) -> Upstream: ...


class Post(Protocol):
    """`await post(upstream, ...)` opens a call; `limits` are those of Limits."""

    async def __call__(
        self,
        upstream: Upstream,
        body: bytes = b"{}",
        *,
        key: str | None = None,
        extra: dict[str, str] | None = None,
        **limits: float,
    ) -> Reply: ...


class Fetch(Protocol):
    """As Post, and gives the whole body."""

    async def __call__(
        self,
        upstream: Upstream,
        body: bytes = b"{}",
        *,
        key: str | None = None,
        extra: dict[str, str] | None = None,
        **limits: float,
    ) -> bytes: ...
