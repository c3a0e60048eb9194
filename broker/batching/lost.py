"""Finds lines that strand: begun, without a result, and no longer in the queue (R18)."""

from __future__ import annotations

import asyncio
import contextlib
from itertools import islice

from broker.batch import lines, native, projection, states
from broker.batching import reading
from broker.batching.copies import Copies, write_all
from broker.batching.run import BEYOND, Run
from broker.bus import backlog
from broker.v1 import batch_pb2

# Jobs that are read at a time: each may have half a megabyte.
_AT_ONCE = 32
# Looks at a batch whose lines may be at a provider.
_LOOKS = 6


class Lookout:
    """Looks twice, so that what is on its way between two places is not taken for lost."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._watermark = 0
        self._looked_at = 0.0
        self._done = -1
        # Looks that found nothing. What was handed over goes to and fro between the queue and the
        # schedules, and a few of them might miss it.
        self._found_none = 0
        self._enough = _LOOKS if native.possible(run.record) else 1

    async def nothing_left(self) -> bool:
        """Whether the queue has nothing of the batch any more. Raises `BusError`."""
        run, loop = self._run, asyncio.get_running_loop()
        if loop.time() - self._looked_at < run.services.pace.quiet_s:
            return False
        self._looked_at = loop.time()
        done = states.done(run.record)
        lane = await backlog.lane(run.services.bus)
        if run.record.stop_code and not any(map(run.services.slots, lane.ahead)):
            # Nobody is there who could be at work on them.
            lane.ahead.clear()
        if (await backlog.scheduled(run.services.bus))[run.line_prefix]:
            self._done = -1
            return False
        if done != self._done:  # the first look, or it goes on
            self._watermark, self._done, self._found_none = lane.last, done, 0
            return False
        pools = {(parts[2], parts[3]) for parts in (name.split(".") for name in lane.ahead)}
        if not await backlog.passed(run.services.bus, self._watermark, pools):
            return False
        self._watermark = lane.last
        self._found_none += 1
        return self._found_none >= self._enough


def has(bits: bytearray, number: int) -> bool:
    """Whether the bit of a line is set."""
    place = number >> 3
    return place < len(bits) and bool(bits[place] >> (number & 7) & 1)


async def end_delayed(run: Run, ended: set[int]) -> None:
    """Give the lines of a stopped batch that are delayed their results: up to a minute early.

    Their schedules stay, so those that have theirs are put into `ended`, and left out. What is
    handed over to a provider's batch API is not over with that, and comes by itself.
    """
    bus, code = run.services.bus, run.record.stop_code
    waiting = await backlog.delayed_lines(bus, run.line_prefix)
    names = iter([name for number, name in waiting.items() if number not in ended])
    while some := list(islice(names, _AT_ONCE)):
        made: list[batch_pb2.LineResult] = [
            projection.ended(job.line.number, job.line.custom_id, code)
            for job in await backlog.delayed_jobs(bus, some)
        ]
        await write_all(run, made)
        ended.update(result.number for result in made)


async def seal(run: Run, copies: Copies | None) -> None:
    """Give every line that was begun and has no result the one that says so."""
    progress, code = run.record.progress, run.record.stop_code
    last = run.furthest + BEYOND if not progress.epoch else None
    async with contextlib.aclosing(reading.chunks(run, 0, 1)) as chunks:
        async for chunk in chunks:
            if last is not None and chunk.number > last:
                return
            numbers = [raw.number for raw in chunk.lines]
            found = await run.services.results.range(run.id, numbers)
            made: list[batch_pb2.LineResult] = [
                projection.ended(raw.number, lines.custom_id(raw.data), code)
                for raw in chunk.lines
                if raw.number not in found and not (copies is not None and raw.number in copies)
            ]
            await write_all(run, made)
