"""Calls to a provider's batch API: what it answers, as values."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncGenerator

from broker.batch.splitter import Splitter
from workers.batches import BatchApi, Folders, Row, There
from workers.failures import Limits
from workers.keys import Key
from workers.tools import Tools
from workers.wire import Call

_log = logging.getLogger(__name__)

# A group of lines may be on its way for minutes.
_LIMITS = Limits(connect_s=10, first_byte_s=300, stall_s=60, deadline_s=900)
_MAX_ANSWER = 16 << 20
# The status of a file that is not there.
_GONE = 404
# A row of results is an answer; more is not read.
_MAX_ROW = 64 << 20


class BatchCalls:
    """See the module. All of them raise `InferenceError`, and ValueError for what is no answer."""

    def __init__(self, api: BatchApi, tools: Tools) -> None:
        self.api = api
        self._upstream = tools.upstream
        self._dialect = tools.provider.dialect

    async def ask(self, call: Call, key: Key | None) -> bytes:
        """The answer to a call. Raises `InferenceError`."""
        reply = await self._upstream.open(call, key=_secret(key), limits=_LIMITS)
        try:
            if not 200 <= reply.status < 300:
                body = await reply.read(_MAX_ANSWER, cut=True)
                raise self._dialect.error(reply.status, reply.headers, body)
            return await reply.read(_MAX_ANSWER)
        finally:
            await reply.aclose()

    async def listed(self, name: str, key: Key | None, pages: int) -> list[There]:
        """The batches on so many pages, the newest first; `name` is of the one that is wanted."""
        found: list[There] = []
        after = ""
        for _ in range(pages):
            page = self.api.page(await self.ask(self.api.list(name, after), key))
            found += page.batches
            after = page.after
            if not after:
                break
        return found

    async def filled(self, there: There, key: Key | None) -> There:
        """A batch that is over, with its results."""
        if not there.folder or not isinstance(self.api, Folders):
            return there
        return self.api.filled(there, await self.ask(self.api.contents(there.folder), key))

    async def rows(self, there: There, key: Key | None) -> AsyncGenerator[Row, None]:
        """What became of a batch's lines; a row that cannot be read is left out."""
        for path in there.results:
            async with contextlib.aclosing(self._lines(path, key)) as lines:
                async for line in lines:
                    try:
                        row = self.api.row(line)
                    except ValueError as exc:
                        _log.warning("a result of %s cannot be read: %s", there.id, exc)
                    else:
                        yield row

    async def _lines(self, path: str, key: Key | None) -> AsyncGenerator[bytes, None]:
        reply = await self._upstream.open(self.api.results(path), key=_secret(key), limits=_LIMITS)
        try:
            if reply.status == _GONE:
                return  # nothing was written
            if not 200 <= reply.status < 300:
                body = await reply.read(_MAX_ANSWER, cut=True)
                raise self._dialect.error(reply.status, reply.headers, body)
            splitter = Splitter()
            async for piece in reply:
                for line in splitter.feed(piece):
                    if not line.isspace():
                        yield line
                if splitter.size > _MAX_ROW:
                    raise ValueError("a result is too large")
            if (line := splitter.last()).strip():
                yield line
        finally:
            await reply.aclose()


def _secret(key: Key | None) -> str | None:
    return key.secret if key is not None else None
