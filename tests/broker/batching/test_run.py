"""Counting: what a batch adds up, and that nothing is written down before it is paid for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from broker.batch import states
from broker.batching.run import FencedError, Run
from broker.bus.batches import KeptBatch
from broker.bus.responses import ConflictError
from broker.bus.results import Seen
from broker.v1 import batch_pb2, event_pb2, record_pb2

BATCH = "batch_" + "0" * 32


class Batches:
    """One record, and the clock."""

    def __init__(self) -> None:
        self.now = 1000
        self.stored = KeptBatch(
            batch_pb2.StoredBatch(
                id=BATCH, owner="acme", tenant="acme", status=states.IN_PROGRESS, expires_at=9
            ),
            1,
        )

    def copy(self) -> KeptBatch:
        record = batch_pb2.StoredBatch()
        record.CopyFrom(self.stored.record)
        return KeptBatch(record, self.stored.revision)

    async def read(self, _key: str) -> KeptBatch:
        return self.copy()

    async def update(self, kept: KeptBatch) -> None:
        await asyncio.sleep(0)
        if kept.revision != self.stored.revision:
            raise ConflictError(BATCH)
        kept.revision += 1
        self.stored = KeptBatch(kept.record, kept.revision)
        self.stored = self.copy()


class Recorder:
    """Stores charges when it is told to."""

    def __init__(self) -> None:
        self.charges: list[record_pb2.Charge] = []
        self.waiting: list[Callable[[], None]] = []

    def charge(self, charge: record_pb2.Charge, stored: Callable[[], None]) -> None:
        self.charges.append(charge)
        self.waiting.append(stored)

    def store(self) -> None:
        while self.waiting:
            self.waiting.pop()()


def made(batches: Batches, recorder: Recorder) -> Run:
    services: Any = SimpleNamespace(batches=batches, recorder=recorder, now=lambda: batches.now)
    return Run(services, batches.copy())


def seen(sequence: int, **fields: Any) -> Seen:
    result = batch_pb2.LineResult(number=sequence, attempt=1, **fields)
    return Seen(sequence, BATCH, result.SerializeToString(), 1000)


async def test_results_are_added_up_once_by_what_they_are() -> None:
    batches, recorder = Batches(), Recorder()
    run = made(batches, recorder)
    usage = event_pb2.Usage(output_tokens=2, tool_calls={"web_search": 1}, estimated=True)
    cost = event_pb2.Cost(nano_usd=5, source="s", date="d")
    results: list[dict[str, Any]] = [
        {"status": 200, "usage": usage, "cost": cost},
        {"status": 200, "usage": usage, "cost": cost},
        {"status": 429, "usage": usage},
        {"error": batch_pb2.BatchError(code="request_timeout")},
        {"error": batch_pb2.BatchError(code=states.BATCH_CANCELLED)},
    ]
    for sequence, fields in enumerate(results, 1):
        run.count(seen(sequence, **fields))
        run.count(seen(sequence, **fields))
    run.count(Seen(9, BATCH, batch_pb2.LineResult(status=200).SerializeToString(), 1))
    recorder.store()
    await run.checkpoint()
    progress = batches.stored.record.progress
    assert (progress.completed, progress.failed, progress.stopped) == (3, 2, 1)
    assert progress.usage == event_pb2.Usage(output_tokens=6, tool_calls={"web_search": 3})
    assert progress.cost == event_pb2.Cost(nano_usd=10, source="s", date="d")
    # A copy of another line's result, which has no attempt, is not charged.
    assert [charge.request_id[-2:] for charge in recorder.charges] == ["_1", "_2"]


async def test_nothing_is_written_down_before_its_charges_are_stored() -> None:
    batches, recorder = Batches(), Recorder()
    run = made(batches, recorder)
    run.count(seen(1, status=200))
    recorder.store()
    run.count(seen(2, status=200))
    writing = asyncio.create_task(run.checkpoint())
    for _ in range(5):
        await asyncio.sleep(0)
    assert batches.stored.record.progress.completed == 0
    run.count(seen(3, status=200))
    recorder.waiting[0]()  # of the second
    await writing
    assert batches.stored.record.progress.completed == 2
    assert run.record.progress.completed == 3
    assert run.dirty


async def test_a_checkpoint_passes_over_no_charges_that_another_waits_for() -> None:
    batches, recorder = Batches(), Recorder()
    run = made(batches, recorder)
    run.count(seen(1, status=200))
    first = asyncio.create_task(run.checkpoint())
    await asyncio.sleep(0)
    run.count(seen(2, status=400))
    second = asyncio.create_task(run.checkpoint())
    for _ in range(9):
        await asyncio.sleep(0)
    assert batches.stored.record.progress.counted_to == 0
    recorder.store()
    await asyncio.gather(first, second)
    assert batches.stored.record.progress.counted_to == 2


async def test_what_others_asked_for_is_kept_and_so_is_what_was_counted() -> None:
    batches, recorder = Batches(), Recorder()
    run = made(batches, recorder)
    states.cancel(batches.stored.record, 5)
    batches.stored.revision += 1
    run.count(seen(1, status=400))
    await run.checkpoint()
    assert run.record.status == batches.stored.record.status == states.CANCELLING
    assert batches.stored.record.progress.failed == 1
    assert not await run.edit(lambda record: states.cancel(record, 6))
    assert run.record.progress.failed == 1


async def test_who_was_replaced_writes_nothing_more() -> None:
    batches = Batches()
    run, other = made(batches, Recorder()), made(batches, Recorder())
    other.count(seen(1, status=400))
    await other.checkpoint()
    run.count(seen(1, status=400))
    with pytest.raises(FencedError):
        await run.checkpoint()
    with pytest.raises(FencedError):
        await run.refresh()
    assert batches.stored.record.progress.failed == 1


async def test_why_lines_wait_is_written_down_and_forgotten_when_it_is_heard_no_more() -> None:
    batches = Batches()
    run = made(batches, Recorder())

    def heard(code: str, message: str = "") -> None:
        run.delayed(batch_pb2.BatchDelay(provider="p", model="m", code=code, message=message))

    heard("upstream_credentials", "the key is refused")
    batches.now += 100
    heard("upstream_credentials", "the key is still refused")
    heard("upstream_rate_limit")
    assert run.dirty
    await run.checkpoint()
    refused, _ = batches.stored.record.progress.delays
    assert (refused.since, refused.at) == (1000, 1100)
    assert refused.message == "the key is still refused"
    for number in range(50):
        heard(f"reason {number}")
    assert len(run.record.progress.delays) == 10
    batches.now += 100
    heard("upstream_credentials")
    batches.now += 100
    run.forget_delays()
    assert [delay.code for delay in run.record.progress.delays] == ["upstream_credentials"]
