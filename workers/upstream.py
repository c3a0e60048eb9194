"""Calls a provider over HTTP: the only module that does.

An attempt is one call (R5). Only when a kept connection turns out to have been closed, before one
byte of an answer came, is the request written again, once, on a new connection; `Upstream.calls`
counts both. Whatever goes wrong between here and the provider is an `InferenceError`, by the table
of `workers.failures`.
Redirects are not followed, cookies not kept, and answers are asked for uncompressed: tokens are
small, and every compressor on the way holds some of them back.
"""

from __future__ import annotations

import re
import time
import urllib.request
from collections.abc import AsyncIterator, Mapping
from email.utils import formatdate
from functools import partial
from importlib.metadata import version
from typing import Self
from urllib.parse import urlsplit

import httpx

from broker.errors import InferenceError
from workers.connection import Sink
from workers.failures import CONNECTING, FOREIGN, Limits, message_of, reasons_of
from workers.headers import goes_on, request_id
from workers.provider import Call, Credentials, Provider
from workers.transport import Answer, Body, StaleConnectionError, Transport
from workers.upload import Attachments, Upload, none

_MAX_BODY = 64 << 20
_USER_AGENT = f"millrace/{version('millrace')}"
_LOOPBACK = ("localhost", "127.", "::1")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
# What one byte can say: Latin-1 without control characters.
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_MAX_URLS = 1000


class Reply:
    """An answer whose headers are in: iterate or `read` its body once, `aclose` it in any case.

    `headers` have lower-case names. Chunks are what has come since the last one, of any size. When
    nobody iterates, reading from the socket stops at about 1 MB.
    """

    __slots__ = (
        "_chunks",
        "_limits",
        "_open",
        "_phase",
        "_settled",
        "_stream",
        "_upstream",
        "headers",
        "status",
    )

    def __init__(self, upstream: Upstream, response: httpx.Response, limits: Limits) -> None:
        self.status = response.status_code
        headers: dict[str, str] = {}
        # Not through httpx.Headers, which guesses an encoding for every header it is asked for.
        for name, value in response.headers.raw:
            lower, text = name.decode("latin-1").lower(), value.decode("latin-1")
            headers[lower] = f"{headers[lower]}, {text}" if lower in headers else text
        if not headers.get("retry-after", "0").isdigit():
            # A date, which counts from the answer's own.
            headers.setdefault("date", formatdate(usegmt=True))
        self.headers: Mapping[str, str] = headers
        stream = response.stream
        assert isinstance(stream, httpx.AsyncByteStream)  # noqa: S101  # the transport is async
        self._stream = stream
        self._chunks: AsyncIterator[bytes] = aiter(stream)
        self._upstream = upstream
        self._limits = limits
        self._phase = "before_content"
        self._settled = not limits.first_token
        self._open = True

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        try:
            chunk = await anext(self._chunks)
        except FOREIGN as exc:
            raise self._error(exc) from exc
        self._phase = "content"
        return chunk

    @property
    def ended(self) -> bool:
        """The whole body has come; what was not taken yet is still to be had."""
        return isinstance(self._stream, Answer) and self._stream.ended

    async def push(self, sink: Sink) -> bool:
        """Call `sink` with each chunk until it returns False, or the body ends: then True.

        It is called from within the read of the socket. What it raises is raised here.
        """
        try:
            if isinstance(self._stream, Answer):
                return await self._stream.push(partial(self._passed, sink))
            async for chunk in self._chunks:
                if not self._passed(sink, chunk):
                    return False
        except FOREIGN as exc:
            raise self._error(exc) from exc
        return True

    def _passed(self, sink: Sink, chunk: bytes) -> bool:
        self._phase = "content"
        return sink(chunk)

    def settle(self) -> None:
        """The first token has come."""
        if not self._settled:
            self._settled = True
            if isinstance(self._stream, Answer):
                self._stream.settle()

    async def read(self, limit: int = _MAX_BODY, *, cut: bool = False) -> bytes:
        """The body; above `limit` bytes it is an error, or with `cut` left at that length."""
        parts: list[bytes] = []
        size = 0
        async for chunk in self:
            parts.append(chunk)
            size += len(chunk)
            if size <= limit:
                continue
            await self.aclose()
            if not cut:
                message = f"the answer of {self._upstream.name} is larger than {limit} bytes"
                raise self._failure("upstream_error", message)
            break
        return b"".join(parts)[:limit]

    async def aclose(self) -> None:
        """Let go: the connection is kept if the body was read to its end, else closed at once."""
        if self._open:
            self._open = False
            self._upstream.in_flight -= 1
            await self._stream.aclose()

    def refuse_unusable(self) -> None:
        """Raise for an answer that no dialect could read."""
        if 300 <= self.status < 400:
            place = self.headers.get("location", "elsewhere").partition("?")[0]
            raise self._failure(
                "upstream_error",
                f"{self._upstream.name} redirects to {place}; redirects are not followed: "
                "set the provider's base URL to where it is",
            )
        if self.status < 200:
            message = f"{self._upstream.name} switched protocols ({self.status})"
            raise self._failure("upstream_error", message)
        encoding = self.headers.get("content-encoding", "identity")
        if encoding != "identity":
            raise self._failure(
                "upstream_error",
                f"{self._upstream.name} compressed its answer ({encoding}) in a way that was not "
                "asked for and cannot be read here",
            )

    def _error(self, exc: BaseException) -> InferenceError:
        reasons = reasons_of(exc)
        if isinstance(exc, httpx.ReadTimeout) and not self._settled:
            self._phase = "before_content"
        reason = reasons.flowing if self._phase == "content" else reasons.waiting
        return self._failure(reason, message_of(reason, exc, self._upstream.name, self._limits))

    def _failure(self, reason: str, message: str) -> InferenceError:
        return InferenceError(
            reason,
            message,
            provider=self._upstream.name,
            phase=self._phase,
            upstream_status=self.status,
            upstream_request_id=request_id(self.headers),
        )


class Upstream:
    """One provider's calls and connections, in one event loop.

    `credentials` make headers of keys where one header with the key is not enough. `transport`
    replaces the real one, whose trust and proxy come from the environment (SSL_CERT_FILE,
    HTTPS_PROXY, NO_PROXY, ...) once, here.
    """

    def __init__(
        self,
        provider: Provider,
        *,
        max_connections: int = 1000,
        credentials: Credentials | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.name = provider.name
        # Requests written, resent ones included; and calls begun and not yet let go.
        self.calls = 0
        self.in_flight = 0
        self._base = provider.base_url.rstrip("/")
        self._credentials = credentials
        self._auth_header = provider.auth_header.lower()
        self._auth_prefix = provider.auth_prefix
        parts = urlsplit(self._base)
        self._headers = {
            "host": parts.netloc.rpartition("@")[2],
            "user-agent": _USER_AGENT,
            "accept": "*/*",
            "accept-encoding": "identity",
            **{name.lower(): value for name, value in provider.headers.items()},
        }
        self._urls: dict[str, httpx.URL] = {}
        self._transport = transport or Transport(
            verify=httpx.create_ssl_context() if parts.scheme == "https" else None,
            proxy=environment_proxy(self._base),
            max_connections=max_connections,
        )

    async def open(
        self,
        call: Call,
        *,
        key: str | None = None,
        limits: Limits,
        extra_headers: Mapping[str, str] | None = None,
        attachments: Attachments = none,
    ) -> Reply:
        """Send `call` and wait for the headers of its answer, whatever its status but a redirect.

        `attachments` opens the files of a form. Raises `InferenceError`, and what that raises.
        """
        headers = self._headers_of(call, key, extra_headers)
        if self._credentials is not None:
            url = (call.base_url or self._base) + call.path
            headers |= await self._credentials.headers(key, call, url)
        upload = None
        if call.form:
            upload = Upload(call.form, attachments)
            headers["content-type"] = upload.content_type
            headers["content-length"] = str(upload.size)
        self.in_flight += 1
        try:
            response = await self._send(call, headers, limits, upload)
        except BaseException as exc:
            self.in_flight -= 1
            if not isinstance(exc, FOREIGN):
                raise
            reason = reasons_of(exc).opening
            raise InferenceError(
                reason,
                message_of(reason, exc, self.name, limits),
                provider=self.name,
                phase="connect" if isinstance(exc, CONNECTING) else "before_content",
            ) from exc
        reply = Reply(self, response, limits)
        if reply.status == 401 and self._credentials is not None:
            self._credentials.refused(key)
        try:
            reply.refuse_unusable()
        except InferenceError:
            await reply.aclose()
            raise
        return reply

    async def close(self) -> None:
        """Close every connection, also those of replies still open."""
        await self._transport.aclose()

    async def _send(
        self, call: Call, headers: dict[str, str], limits: Limits, upload: Upload | None
    ) -> httpx.Response:
        request = httpx.Request(
            call.method,
            self._url((call.base_url or self._base) + call.path),
            headers=[(k.encode("ascii"), v.encode("latin-1")) for k, v in headers.items()],
            stream=Body(call.body),
            extensions={
                "timeout": {"connect": limits.connect_s or None, "read": limits.stall_s or None},
                "first_byte": limits.first_byte_s,
                "first_token": limits.first_token,
                "deadline": limits.deadline_s,
                "upload": upload,
            },
        )
        begun = time.monotonic()
        self.calls += 1
        try:
            return await self._transport.handle_async_request(request)
        except StaleConnectionError:
            if limits.deadline_s:
                left = limits.deadline_s - (time.monotonic() - begun)
                request.extensions["deadline"] = max(0.001, left)
            self.calls += 1
            return await self._transport.handle_async_request(request)

    def _url(self, address: str) -> httpx.URL:
        url = self._urls.get(address)
        if url is None:
            url = httpx.URL(address)
            if len(self._urls) < _MAX_URLS:
                self._urls[address] = url
        return url

    def _headers_of(
        self, call: Call, key: str | None, extra: Mapping[str, str] | None
    ) -> dict[str, str]:
        headers = dict(self._headers)
        for name, value in (extra or {}).items():
            lower = name.lower()
            # What the provider's file, the operator and the dialect set is not the caller's.
            if lower == self._auth_header or lower in self._headers or not goes_on(lower):
                continue
            if not (_HEADER_NAME.fullmatch(name) and _HEADER_VALUE.fullmatch(value)):
                raise InferenceError(
                    "invalid_request",
                    "a header has a name of letters, digits and dashes, and a text of Latin-1 "
                    "characters on one line",
                    param=f"extra_headers.{name}",
                )
            headers[lower] = value
        if call.base_url:
            headers["host"] = urlsplit(call.base_url).netloc
        for name, value in call.headers.items():
            headers[name.lower()] = value
        if key is not None and self._credentials is None:
            if not _one_line(key):
                raise InferenceError(
                    "upstream_credentials",
                    f"the key for {self.name} has characters that no key has, such as a line break",
                    provider=self.name,
                    phase="connect",
                )
            headers[self._auth_header] = self._auth_prefix + key
        headers["content-length"] = str(len(call.body))
        return headers


def environment_proxy(url: str) -> str | None:
    """The proxy that HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY ask for; None on loopback.

    Raises ValueError for one that cannot be used.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    if host.startswith(_LOOPBACK) or urllib.request.proxy_bypass(parts.netloc):
        return None
    proxies = urllib.request.getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if proxy is None:
        return None
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    if urlsplit(proxy).scheme not in ("http", "https"):
        raise ValueError(
            f"the proxy for {host} is no HTTP proxy: set {parts.scheme.upper()}_PROXY to one, "
            f"or NO_PROXY={host}"
        )
    return proxy


def _one_line(value: str) -> bool:
    return value.isascii() and value.isprintable()
