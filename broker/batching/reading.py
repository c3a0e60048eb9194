"""Reads the input of a batch in chunks, from any line on, in flat memory."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator

from broker.batch import chunks as cutting
from broker.batch import lines, native
from broker.batch.chunks import SMALL, STRETCH, Chunk, Cursor, Place, Raw, Size
from broker.batching.run import Run
from broker.bus.connection import BusError
from broker.bus.objects import GoneError

# What is read at a time. Files are stored in pieces of this size, so that one is one request.
_STEP = 512 << 10
# Lines that are looked at without a pause.
_BREATH = 256


class InputGoneError(BusError):
    """The input file was deleted, or it has expired."""


async def next_chunk(run: Run, cursor: Cursor, size: Size = SMALL) -> Chunk | None:
    """The chunk at the cursor; None at the end. Raises `BusError`, `InputGoneError`."""
    if run.input is None:
        run.input = await run.services.files.get(run.record.owner, run.record.input_file_id)
    if run.input is None:
        raise InputGoneError(f"the input file of {run.id} does not exist any more")
    whole = run.input.bytes
    while True:
        at = cursor.wants
        chunk = cursor.take(last=at >= whole, size=size)
        if chunk is not None or at >= whole:
            return chunk
        end = min(whole, (at // _STEP + 1) * _STEP)
        try:
            async with contextlib.aclosing(run.services.files.read(run.input, at, end)) as pieces:
                cursor.feed(b"".join([piece async for piece in pieces]))
        except GoneError as exc:
            raise InputGoneError(f"the input of {run.id}: {exc}") from exc


async def chunks(run: Run, offset: int, number: int) -> AsyncGenerator[Chunk, None]:
    """All chunks from the line `number` on, which begins at `offset`."""
    cursor = Cursor(offset, number)
    while (chunk := await next_chunk(run, cursor)) is not None:
        yield chunk


class Reader:
    """Reads an input from a place on, a stretch at a time, in the order of its publication."""

    def __init__(self, run: Run, place: Place) -> None:
        self._run = run
        self._cursor = Cursor(place.offset, place.number)
        # Chunks of the stretch that are in memory.
        self._chunks: deque[Chunk] = deque()
        # Of the next stretch, those that were published before.
        self._past = place.part
        # Bytes of it.
        self.size = 0

    async def next(self, *, handed_over: bool) -> Chunk | None:
        """The next chunk, or a group of lines that are handed over together; None at the end."""
        if self._chunks:
            return self._chunks.popleft()
        self.size = 0
        if handed_over and not self._past:
            return await next_chunk(self._run, self._cursor, native.SIZE)
        stretch = await next_chunk(self._run, self._cursor, STRETCH)
        if stretch is None:
            return None
        known = [one async for one in _prefixed(stretch)]
        self._chunks.extend(cutting.cut(stretch, cutting.ordered(known)))
        self.size = stretch.end - stretch.begin
        for _ in range(min(self._past, len(self._chunks) - 1)):
            self._chunks.popleft()
        self._past = 0
        return self._chunks.popleft()

    def put_back(self, chunk: Chunk) -> None:
        """Give it again next."""
        self._chunks.appendleft(chunk)


async def _prefixed(stretch: Chunk) -> AsyncIterator[tuple[Raw, bytes]]:
    """Its lines with what their prompts begin with; others get their turn now and then."""
    for count, raw in enumerate(stretch.lines, 1):
        yield raw, lines.prompt_prefix(raw.data)
        if not count % _BREATH:
            await asyncio.sleep(0)
