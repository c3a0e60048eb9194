"""Lines that ask what an earlier line of their batch asks: which they are, and their results.

They are not run. When everything else is, each gets a copy of the earlier line's result, for which
nothing was used and nothing is charged.
"""

from __future__ import annotations

import asyncio
import contextlib
from array import array
from bisect import bisect_left
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
    """Which lines are copies, and of which."""

    def __init__(self, pairs: array[int]) -> None:
        self._numbers = pairs[0::2]
        self._firsts = pairs[1::2]

    def __contains__(self, number: int) -> bool:
        return self.first(number) > 0

    def first(self, number: int) -> int:
        """The line whose result this one gets; 0 = it runs itself."""
        place = bisect_left(self._numbers, number)
        found = place < len(self._numbers) and self._numbers[place] == number
        return self._firsts[place] if found else 0


async def store(run: Run, pairs: array[int]) -> None:
    """Keep pairs of a line and the first one like it, sorted by the line."""
    await run.services.blobs.put_as(_name(run), pairs.tobytes())


async def load(run: Run) -> Copies:
    """What was kept. Raises `CopiesGoneError`."""
    data = await run.services.blobs.get(_name(run))
    if data is None:
        raise CopiesGoneError(run.id)
    pairs = array("q")
    pairs.frombytes(data)
    return Copies(pairs)


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
