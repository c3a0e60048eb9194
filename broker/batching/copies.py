"""Lines that ask what an earlier line of their batch asks: which they are, and their results.

They are not run. When everything else is, each gets a copy of the earlier line's result, for which
nothing was used and nothing is charged.
"""

from __future__ import annotations

import asyncio
import contextlib
from array import array
from functools import partial

from broker import subjects
from broker.batch import lines, projection
from broker.batch.chunks import Chunk
from broker.batching import reading
from broker.batching.run import Run
from broker.bus.responses import COPIES_OF
from broker.v1 import batch_pb2

# Results that are read at a time.
_AT_ONCE = 64


class CopiesGoneError(Exception):
    """Which lines are copies is stored nowhere any more."""


class Copies:
    """Which lines are copies, and of which: `firsts` has a number for each line, four bytes."""

    def __init__(self, firsts: array[int]) -> None:
        self._firsts = firsts

    def __contains__(self, number: int) -> bool:
        return self.first(number) > 0

    def first(self, number: int) -> int:
        """The line whose result this one gets; 0 = it runs itself."""
        return self._firsts[number] if number < len(self._firsts) else 0


async def store(run: Run, firsts: array[int]) -> None:
    """Keep for each line the first one like it; 0 = it is that itself."""
    await run.services.blobs.put_as(_name(run), firsts.tobytes())


async def load(run: Run) -> Copies:
    """What was kept. Raises `CopiesGoneError`."""
    data = await run.services.blobs.get(_name(run))
    if data is None:
        raise CopiesGoneError(run.id)
    firsts = array("I")
    firsts.frombytes(data)
    return Copies(firsts)


async def forget(run: Run) -> None:
    """They have their results."""
    await run.services.blobs.discard(_name(run))


async def write(run: Run, copies: Copies) -> int:
    """Give copies their results; returns how many have one then.

    Those have none whose first line ended with the batch.
    """
    written = 0
    async with contextlib.aclosing(reading.chunks(run, 0, 1)) as chunks:
        async for chunk in chunks:
            written += await _of_chunk(run, copies, chunk)
    return written


async def _of_chunk(run: Run, copies: Copies, chunk: Chunk) -> int:
    wanted = {raw.number: copies.first(raw.number) for raw in chunk.lines}
    wanted = {number: first for number, first in wanted.items() if first}
    if not wanted:
        return 0
    firsts = await run.services.results.range(run.id, sorted(set(wanted.values())))
    made: list[batch_pb2.LineResult] = []
    for raw in chunk.lines:
        result = firsts.get(wanted.get(raw.number, 0))
        if result is not None and not projection.stopped(result):
            made.append(projection.copy(result, raw.number, lines.custom_id(raw.data)))
    await write_all(run, made)
    return len(made)


async def write_all(run: Run, results: list[batch_pb2.LineResult]) -> None:
    """Write results of the leader's own; returns when every line has one."""
    loop = asyncio.get_running_loop()
    for start in range(0, len(results), _AT_ONCE):
        stored = []
        for result in results[start : start + _AT_ONCE]:
            future = loop.create_future()
            stored.append(future)
            await run.services.outcomes.write(run.id, result, partial(future.set_result, None))
        await asyncio.gather(*stored)


def _name(run: Run) -> str:
    return f"{COPIES_OF}{subjects.token(run.id)}"
