"""The counter of results: every result of every batch once, whenever a batch joins."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from broker import subjects
from broker.batch import states
from broker.batching import counting as counting_module
from broker.batching.counting import Counting
from broker.batching.run import Run
from broker.bus.batches import KeptBatch
from broker.bus.ending import end
from broker.bus.results import Seen
from broker.v1 import batch_pb2
from tests.broker.bus.server import until

RESULTS = 100
# More than what a follower is handed at a time.
GROUP = 10


class Results:
    """A stream of results, of two batches in turn, handed out a group at a time when told to."""

    def __init__(self, batches: list[str]) -> None:
        self._tokens = [subjects.token(batch) for batch in batches]
        self.starts: list[int] = []
        self.may = asyncio.Event()
        self.breaks = 0

    async def follow(self, start: int) -> AsyncIterator[list[Seen]]:
        self.starts.append(start)
        at = start
        while True:
            await self.may.wait()
            if self.breaks:
                self.breaks -= 1
                raise RuntimeError("broken")
            if at > RESULTS:
                await asyncio.Event().wait()
            yield [self._seen(n) for n in range(at, min(at + GROUP, RESULTS + 1))]
            at += GROUP

    def _seen(self, sequence: int) -> Seen:
        result = batch_pb2.LineResult(number=sequence, custom_id="c", status=200)
        token = self._tokens[sequence % len(self._tokens)]
        return Seen(sequence, token, result.SerializeToString(), 0)


class Recorder:
    """Charges that wait for the stream, until it takes them."""

    def __init__(self) -> None:
        self.pending = 0
        self.drained = asyncio.Event()

    async def drain(self) -> None:
        await self.drained.wait()
        self.pending = 0


def run_of(services: Any, last: str, counted_to: int) -> Run:
    record = batch_pb2.StoredBatch(id="batch_" + last * 32, status=states.IN_PROGRESS)
    record.progress.counted_to = counted_to
    return Run(services, KeptBatch(record, 1))


@pytest.fixture
async def world() -> AsyncIterator[tuple[Any, Results, Counting]]:
    results = Results(["batch_" + "a" * 32, "batch_" + "b" * 32])
    services: Any = SimpleNamespace(results=results, recorder=Recorder())
    counting = Counting(services)
    task = asyncio.create_task(counting.count())
    yield services, results, counting
    await end(task)


async def test_a_batch_that_joins_further_back_skips_nothing_though_a_group_is_on_its_way(
    world: tuple[Any, Results, Counting],
) -> None:
    services, results, counting = world
    ahead, behind = run_of(services, "a", 50), run_of(services, "b", 0)
    counting.join(ahead)
    await until(lambda: results.starts == [51], "it follows")
    results.may.set()  # what is on its way comes before anything can be done about it
    counting.join(behind)
    assert await counted(ahead, 25)
    assert await counted(behind, 50)
    assert results.starts == [51, 1]


async def test_a_batch_that_begins_anew_while_others_are_counted_skips_nothing(
    world: tuple[Any, Results, Counting],
) -> None:
    services, results, counting = world
    first, other = run_of(services, "a", 0), run_of(services, "b", 0)
    counting.join(first)
    counting.join(other)
    results.may.set()
    assert await counted(first, 50)
    counting.leave(first)
    again = run_of(services, "a", 20)  # its checkpoint
    counting.join(again)
    counting.leave(first)  # one that has gone takes nobody else with it
    assert await counted(again, 40)
    assert other.record.progress.completed == 50


async def test_what_breaks_the_counter_costs_no_result(
    world: tuple[Any, Results, Counting],
) -> None:
    services, results, counting = world
    run = run_of(services, "a", 0)
    counting.join(run)
    results.breaks = 1
    results.may.set()
    assert await counted(run, 50)


async def test_no_more_is_counted_than_can_be_charged(
    world: tuple[Any, Results, Counting],
) -> None:
    services, results, counting = world
    run = run_of(services, "a", 0)
    services.recorder.pending = counting_module._MOST_PENDING + 1
    counting.join(run)
    results.may.set()
    assert await counted(run, GROUP // 2)
    for _ in range(20):
        await asyncio.sleep(0)
    assert run.record.progress.completed == GROUP // 2
    services.recorder.drained.set()
    assert await counted(run, 50)


async def counted(run: Run, wanted: int) -> bool:
    await until(lambda: run.record.progress.completed >= wanted, f"{wanted} are counted", 5)
    return run.record.progress.completed == wanted
