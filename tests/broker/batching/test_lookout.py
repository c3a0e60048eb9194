"""When lines count as lost, of what the queue and the schedules tell."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from broker.batching.lost import Lookout
from broker.bus import backlog
from broker.v1 import batch_pb2

PREFIX = "batch_req_1"
QUEUED = "req.bat.openai.main._"


class Queue:
    """What is queued, scheduled and passed, as a look finds it."""

    def __init__(self) -> None:
        self.last = 1
        self.scheduled = 0
        # Whether pools that are looked at are done with what they had.
        self.passed = True

    async def lane(self, _bus: object) -> backlog.Lane:
        return backlog.Lane({QUEUED: 1}, self.last)

    async def waiting(self, _bus: object) -> Counter[str]:
        return Counter({PREFIX: self.scheduled})

    async def is_passed(self, _bus: object, _watermark: int, pools: set[Any]) -> bool:
        return self.passed or not pools


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> Queue:
    queue = Queue()
    monkeypatch.setattr(backlog, "lane", queue.lane)
    monkeypatch.setattr(backlog, "scheduled", queue.waiting)
    monkeypatch.setattr(backlog, "passed", queue.is_passed)
    return queue


def lookout(execution: str = "", stop_code: str = "") -> Lookout:
    """Of a batch for whose lines there are no workers."""
    record = batch_pb2.StoredBatch(stop_code=stop_code)
    record.options.execution = execution
    services = SimpleNamespace(bus=None, pace=SimpleNamespace(quiet_s=0.0), slots=lambda _name: 0)
    run: Any = SimpleNamespace(record=record, services=services, line_prefix=PREFIX)
    return Lookout(run)


async def looks(found: Lookout, most: int = 20) -> int:
    """How many looks it takes until nothing is left; 0 = more than these."""
    for n in range(1, most + 1):
        if await found.nothing_left():
            return n
    return 0


@pytest.mark.usefixtures("queue")
async def test_two_looks_that_find_nothing_are_enough_for_lines() -> None:
    assert await looks(lookout()) == 2


@pytest.mark.usefixtures("queue")
@pytest.mark.parametrize("execution", ["native", "auto"])
async def test_what_may_be_at_a_provider_is_missed_often_before_it_is_lost(execution: str) -> None:
    assert await looks(lookout(execution)) == 7


async def test_a_job_that_comes_and_goes_is_never_lost(queue: Queue) -> None:
    found = lookout("native")
    for n in range(60):
        # Every sixth look meets it where it waits; the others miss it.
        queue.scheduled = int(n % 6 == 5)
        queue.last += 1
        assert not await found.nothing_left()


async def test_lines_that_nobody_can_take_are_waited_for_until_they_are_stopped(
    queue: Queue,
) -> None:
    queue.passed = False
    assert not await looks(lookout())
    assert await looks(lookout(stop_code="batch_cancelled")) == 2
