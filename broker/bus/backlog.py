"""What of the batch lane is queued, in flight or scheduled, read from the streams themselves.

A work queue holds a message until it is acked, so that its count is what is ahead of a publisher,
whoever published it.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from nats.js.errors import NotFoundError

from broker import subjects
from broker.bus.connection import Bus
from broker.bus.steady import mapped, state_of
from broker.v1 import job_pb2

_STREAM = subjects.LANES[subjects.BATCH]
_SCHEDULES = "SCHED"


@dataclass(frozen=True, slots=True)
class Lane:
    """The batch lane at one moment: messages by subject, and the newest one's sequence."""

    ahead: dict[str, int]
    last: int


async def lane(bus: Bus) -> Lane:
    """What is queued or in flight now."""
    ahead, last = await _subjects(bus, _STREAM, f"req.{subjects.BATCH}.>")
    return Lane(ahead, last)


async def scheduled(bus: Bus) -> Counter[str]:
    """How many delayed lines each batch has, by what its lines' request ids begin with."""
    found: Counter[str] = Counter()
    for (batch, _), count in (await delayed(bus)).items():
        found[batch] += count
    return found


async def delayed(bus: Bus) -> Counter[tuple[str, str]]:
    """The same for each place where they go then (`subjects.place`)."""
    pattern = subjects.schedule(subjects.BATCH, "x")[:-1] + "*"
    waiting, _ = await _subjects(bus, _SCHEDULES, pattern)
    found: Counter[tuple[str, str]] = Counter()
    for name in waiting:
        place, _, line = name.rpartition(".")[2].partition("-")
        found[line.rpartition("_")[0], place] += 1
    return found


async def delayed_lines(bus: Bus, batch: str) -> dict[int, str]:
    """Where each delayed line of a batch waits, by what its lines' request ids begin with.

    What is handed over to a provider's batch API is not among them.
    """
    pattern = subjects.schedule(subjects.BATCH, "x")[:-1] + "*"
    waiting, _ = await _subjects(bus, _SCHEDULES, pattern)
    found: dict[int, str] = {}
    for name in waiting:
        request, _, number = name.rpartition("_")
        if request.endswith(batch) and number.isdecimal():
            found[int(number)] = name
    return found


async def delayed_jobs(bus: Bus, names: Collection[str]) -> list[job_pb2.Job]:
    """The jobs that wait there, all at once; those that are due meanwhile are left out."""
    with mapped("read delayed jobs"):
        jobs = await asyncio.gather(*(_delayed_job(bus, name) for name in names))
    return [job for job in jobs if job is not None]


async def _delayed_job(bus: Bus, subject: str) -> job_pb2.Job | None:
    try:
        message = await bus.js.get_last_msg(_SCHEDULES, subject)
    except NotFoundError:
        return None  # it is queued meanwhile
    return job_pb2.Job.FromString(message.data or b"")


async def oldest(bus: Bus) -> float:
    """When the oldest job was stored that is queued, in flight or delayed, in Unix seconds.

    By the server's clock; infinite where there is none. Delayed jobs of other lanes count too.
    """
    found = math.inf
    for stream in (_STREAM, _SCHEDULES):
        with mapped("read the backlog"):
            state, _ = await state_of(bus, stream)
        if state.messages:
            found = min(found, datetime.fromisoformat(state.first_ts).timestamp())
    return found


async def passed(bus: Bus, watermark: int, pools: Collection[tuple[str, str]]) -> bool:
    """Whether these pools are done with all that the lane had up to this sequence."""
    with mapped("read the batch lane"):
        for provider, pool in pools:
            name = subjects.consumer(subjects.BATCH, provider, pool)
            try:
                info = await bus.js.consumer_info(_STREAM, name)
            except NotFoundError:
                return False  # it is made again when its workers come
            floor = info.ack_floor.stream_seq if info.ack_floor else 0
            # What it was not given yet may all be newer.
            if floor < watermark and (info.num_pending or info.num_ack_pending):
                return False
    return True


async def _subjects(bus: Bus, stream: str, pattern: str) -> tuple[dict[str, int], int]:
    """Messages by subject, and the stream's last sequence; the server tells 100,000 at a time."""
    found: dict[str, int] = {}
    while True:
        with mapped("read the batch lane"):
            state, total = await state_of(bus, stream, pattern, len(found))
        found |= state.subjects
        if not state.subjects or len(found) >= total:
            return found, state.last_seq
