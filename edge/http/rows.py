"""Sends the rows of a batch as its lines end, as fast as the client reads."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import AbstractContextManager, aclosing
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from broker.errors import InferenceError
from edge.batches.reading import Reading
from edge.http.protocol import Connection

_log = logging.getLogger(__name__)


class Rows(Response):
    """Rows as they are read; a reply that broke off never looks complete."""

    def __init__(
        self,
        reading: Reading,
        after: int,
        stream: AbstractContextManager[None],
        *,
        wait: bool,
        over: bool,
        patience_s: float,
    ) -> None:
        self._reading = reading
        self._after = after
        self._stream = stream
        self._wait = wait
        self._over = over
        self._patience_s = patience_s
        super().__init__()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        connection: Connection = scope["state"]["connection"]
        task = asyncio.current_task()
        if task is not None:
            connection.watch(task.cancel)
        try:
            with self._stream:
                await self._send(connection, send)
        except asyncio.CancelledError:
            if not connection.response.gone:
                raise
        finally:
            connection.unwatch()

    async def _send(self, connection: Connection, send: Send) -> None:
        head: dict[str, Any] = {
            "type": "http.response.start",
            "status": 200,
            "headers": [
                (b"content-type", b"application/jsonl"),
                (b"x-incomplete", b"false" if self._over or self._wait else b"true"),
            ],
        }
        async with aclosing(self._chunks()) as chunks:
            chunk = b""
            if not (self._wait or connection.response.bodiless):
                # While nothing was sent an error has a status.
                chunk = await anext(chunks, b"")
            await send(head)
            try:
                if self._wait and not connection.response.bodiless:
                    # Whoever waits knows at once that it is here.
                    await send({"type": "http.response.body", "body": b"", "more_body": True})
                    chunk = await anext(chunks, b"")
                while chunk and not connection.response.gone:
                    async with asyncio.timeout(self._patience_s):
                        body = {"type": "http.response.body", "body": chunk, "more_body": True}
                        await send(body)
                    chunk = await anext(chunks, b"")
            except (InferenceError, TimeoutError) as exc:
                _log.warning("reading results broke off: %s", exc or "nobody reads them")
                connection.abort()
                return
        if not connection.response.gone:
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _chunks(self) -> AsyncGenerator[bytes, None]:
        async with aclosing(self._reading.rows(self._after, wait=self._wait)) as groups:
            async for group in groups:
                yield b"".join(answered.row for answered in group)
