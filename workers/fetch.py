"""Fetches what a request names by its address, from the public internet alone.

Every hop's host is resolved here, every address it resolves to is checked, and the connection goes
to an address that was checked: a name that resolves to another one a moment later gains nothing.
Proxies of the environment are not used, because they would resolve names by themselves.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import NamedTuple
from urllib.parse import urljoin, urlsplit

import httpx

from broker.errors import InferenceError
from broker.settings import FetchSettings
from broker.v1 import generation_pb2
from workers.emulation.addresses import is_public
from workers.emulation.media import Address, copied, put, unread
from workers.provider import Unreadable

MAX_REDIRECTS = 3
# Of one request, at a time.
_AT_ONCE = 4
_REDIRECTS = (301, 302, 303, 307, 308)
_PORTS = {"http": 80, "https": 443}


class _Host(NamedTuple):
    scheme: str
    name: str
    port: int


class _Refused(Exception):  # noqa: N818
    """Why something cannot be fetched; the text is for the caller."""


class Fetcher:
    """Fetches over connections of its own; `close` it."""

    def __init__(self, settings: FetchSettings) -> None:
        self._settings = settings
        self._transport: httpx.AsyncHTTPTransport | None = None

    async def inline(
        self, request: generation_pb2.Request, needed: Unreadable
    ) -> generation_pb2.Request:
        """The request with bytes in place of the addresses that the provider does not read.

        Raises `InferenceError` invalid_request with the path of what cannot be had, or `needed`
        itself if there is nothing to fetch.
        """
        request = copied(request)
        addresses = unread(request, needed.reads)
        if not addresses:
            raise needed
        gate = asyncio.Semaphore(_AT_ONCE)
        room = [self._settings.max_bytes]

        async def one(address: Address) -> None:
            async with gate:
                data = await self._fetched(address, room)
            put(address, data)

        try:
            async with asyncio.TaskGroup() as group:
                for address in addresses:
                    group.create_task(one(address))
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return request

    async def close(self) -> None:
        """Close the connections."""
        if self._transport is not None:
            await self._transport.aclose()

    async def _fetched(self, address: Address, room: list[int]) -> bytes:
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                return await self._follow(address.url, room)
        except TimeoutError:
            why = f"it took longer than {self._settings.timeout_s:g} s"
        except _Refused as exc:
            why = str(exc)
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as exc:
            why = f"{type(exc).__name__}"
        raise InferenceError(
            "invalid_request",
            f"the address cannot be fetched: {why}. Send the content as a data URL, or make it "
            "available there",
            param=address.path,
        )

    async def _follow(self, url: str, room: list[int]) -> bytes:
        for _ in range(MAX_REDIRECTS + 1):
            host = _host_of(url)
            found = await self._from_any(url, host, await self._resolve(host), room)
            if isinstance(found, bytes):
                return found
            url = urljoin(url, found)
        raise _Refused(f"it redirects more than {MAX_REDIRECTS} times")

    async def _from_any(
        self, url: str, host: _Host, addresses: list[str], room: list[int]
    ) -> bytes | str:
        """The answer of the first address that can be connected to."""
        for address in addresses[:-1]:
            with contextlib.suppress(httpx.ConnectError):
                return await self._get(url, host, address, room)
        return await self._get(url, host, addresses[-1], room)

    async def _resolve(self, host: _Host) -> list[str]:
        """The addresses of the host, all of which must be allowed."""
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(host.name, host.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as exc:
            raise _Refused(f"the host {host.name!r} has no address") from exc
        addresses = list(dict.fromkeys(str(info[4][0]) for info in found))
        if not self._settings.allow_private and not all(map(is_public, addresses)):
            raise _Refused(f"the host {host.name!r} is not on the public internet")
        return addresses

    async def _get(self, url: str, host: _Host, address: str, room: list[int]) -> bytes | str:
        """The content, or where it redirects to."""
        if self._transport is None:
            self._transport = httpx.AsyncHTTPTransport(
                verify=httpx.create_ssl_context(),
                trust_env=False,
                limits=httpx.Limits(max_keepalive_connections=0),
            )
        target = httpx.URL(url).copy_with(host=address, port=host.port, userinfo=b"")
        named = f"[{host.name}]" if ":" in host.name else host.name
        at = named if host.port == _PORTS[host.scheme] else f"{named}:{host.port}"
        request = httpx.Request(
            "GET",
            target,
            headers={"host": at, "accept-encoding": "identity", "user-agent": "millrace"},
            # Certificates are checked against the name, though the address is connected to.
            extensions={"sni_hostname": host.name},
        )
        response = await self._transport.handle_async_request(request)
        stream = response.stream
        assert isinstance(stream, httpx.AsyncByteStream)  # noqa: S101  # the transport is async
        try:
            place = response.headers.get("location")
            if response.status_code in _REDIRECTS and place:
                return str(place)
            if response.status_code != 200:
                raise _Refused(f"the server answered with status {response.status_code}")
            return await self._read(stream, room)
        finally:
            await stream.aclose()

    async def _read(self, stream: httpx.AsyncByteStream, room: list[int]) -> bytes:
        parts: list[bytes] = []
        # Bytes as they came: what is compressed is not unpacked, so it cannot burst.
        async for part in stream:
            room[0] -= len(part)
            if room[0] < 0:
                most = self._settings.max_bytes
                raise _Refused(f"it is larger than {most} bytes, with all else of the request")
            parts.append(part)
        return b"".join(parts)


def _host_of(url: str) -> _Host:
    parts = urlsplit(url)
    scheme = parts.scheme.lower()
    if scheme not in _PORTS or not parts.hostname:
        raise _Refused("it leads to something else than http and https")
    return _Host(scheme, parts.hostname, parts.port or _PORTS[scheme])
