"""Reads the input of a batch in chunks, from any line on, in flat memory."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator

from broker.batch.chunks import SMALL, Chunk, Cursor, Size
from broker.batching.run import Run
from broker.bus.connection import BusError
from broker.bus.objects import GoneError

# What is read at a time. Files are stored in pieces of this size, so that one is one request.
_STEP = 512 << 10


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
