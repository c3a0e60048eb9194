"""Sends a file, or the part of it that was asked for, as fast as the client reads."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Mapping
from urllib.parse import quote

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from broker.errors import InferenceError
from broker.translate.byte_range import read_range
from broker.v1 import file_pb2
from edge.files import FileService
from edge.http.protocol import Connection
from edge.http.reply import Header, error_reply

_log = logging.getLogger(__name__)


class Download(Response):
    """One file as a response; a reply that broke off never looks complete."""

    def __init__(
        self,
        service: FileService,
        record: file_pb2.StoredFile,
        headers: Mapping[str, str],
        *,
        patience_s: float,
    ) -> None:
        self._service = service
        self._record = record
        self._asked = headers
        self._patience_s = patience_s
        super().__init__()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        record = self._record
        etag = f'"{record.id}"'
        given = self._asked.get("range")
        if given and self._asked.get("if-range", etag) != etag:
            given = None
        try:
            part = read_range(given, record.bytes)
        except InferenceError as exc:
            await _refuse(exc, record, scope, send)
            return
        start, end = part or (0, record.bytes)
        headers: list[Header] = [
            (b"content-type", b"application/octet-stream"),
            (b"content-disposition", _disposition(record.filename)),
            # It is what somebody uploaded, and this is where the API's own pages are.
            (b"x-content-type-options", b"nosniff"),
            (b"accept-ranges", b"bytes"),
            (b"etag", etag.encode()),
            (b"content-length", b"%d" % (end - start)),
        ]
        if part is not None:
            headers.append((b"content-range", b"bytes %d-%d/%d" % (start, end - 1, record.bytes)))
        head = {
            "type": "http.response.start",
            "status": 200 if part is None else 206,
            "headers": headers,
        }
        connection: Connection = scope["state"]["connection"]
        if connection.response.bodiless:
            await send(head)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            return
        async with contextlib.aclosing(self._service.read(record, start, end)) as chunks:
            # While nothing was sent an error has a status.
            first = await anext(chunks, b"")
            await send(head)
            try:
                await self._send(first, chunks, connection, send)
            except InferenceError as exc:
                _log.warning("sending %s broke off: %s", record.id, exc.message)
                connection.abort()

    async def _send(
        self,
        chunk: bytes,
        chunks: AsyncGenerator[bytes, None],
        connection: Connection,
        send: Send,
    ) -> None:
        while chunk and not connection.response.gone:
            try:
                async with asyncio.timeout(self._patience_s):
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
            except TimeoutError:
                connection.abort()
                return
            chunk = await anext(chunks, b"")
        if not connection.response.gone:
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _refuse(
    error: InferenceError, record: file_pb2.StoredFile, scope: Scope, send: Send
) -> None:
    status, headers, body = error_reply(error, scope["state"]["request_id"])
    headers.append((b"content-range", b"bytes */%d" % record.bytes))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


def _disposition(name: str) -> bytes:
    """The name to save it under, as RFC 6266 has it."""
    plain = "".join(c if c.isascii() and c.isprintable() and c not in '"\\' else "_" for c in name)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}".encode()
