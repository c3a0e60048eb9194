"""Batches that mix models: what holds one model up holds up no other one, whoever leads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

import pytest

from broker import subjects
from broker.batch import states
from broker.batch.chunks import LINES
from broker.batching import publish
from broker.bus import Bus
from broker.bus.background import publish as publish_job
from broker.bus.ending import end
from broker.bus.layout import ensure_pool
from broker.bus.queue import Publisher
from broker.bus.recorder import Recorder
from broker.bus.usage import usage_groups
from broker.ledger import Ledger
from broker.v1 import batch_pb2, job_pb2
from tests.broker.batching.leading import OTHER, Author, Leader, Routes, Worker
from tests.broker.bus.server import until

EACH = 600
MIXED = batch_pb2.BatchOptions(mixed_models=True)
ORDERS = {
    "sorted": ["other"] * EACH + ["m"] * EACH,
    "in turn": ["other", "m"] * EACH,
}


@pytest.fixture
async def bus(bus: Bus) -> Bus:
    await ensure_pool(bus, "sim", "other", 4)
    return bus


def lines(models: list[str]) -> bytes:
    return b"".join(
        b'{"custom_id":"c%d","method":"POST","url":"/v1/chat/completions",'
        b'"body":{"model":"%b","messages":[]}}\n' % (number, model.encode())
        for number, model in enumerate(models, 1)
    )


async def over(author: Author, batch: str, worker: Worker, other: Worker) -> None:
    """It ends as if nothing had held it up: every line once, and in order."""
    await until(lambda: author.over(batch), "it is over", 30)
    record = await author.get(batch)
    assert (record.status, record.progress.completed) == (states.COMPLETED, 2 * EACH)
    rows = (await author.content(record.output_file_id)).splitlines()
    assert [row.split(b'"custom_id":"c')[1].split(b'"')[0] for row in rows] == [
        b"%d" % number for number in range(1, 2 * EACH + 1)
    ]
    assert set(worker.asked.values()) == set(other.asked.values()) == {1}
    assert (len(worker.asked), len(other.asked)) == (EACH, EACH)


@pytest.mark.parametrize("order", ORDERS)
async def test_a_model_that_answers_nobody_holds_up_no_other_one(
    bus: Bus, monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    author, worker, other = Author(bus), Worker(bus), Worker(bus, "other")
    batch = await author.create(lines(ORDERS[order]), options=MIXED)
    working = [asyncio.create_task(worker.work())]
    async with Leader(bus, monkeypatch):
        await until(lambda: len(worker.asked) == EACH, "the lines of the one are answered", 20)
        record = await author.get(batch)
        assert record.status == states.IN_PROGRESS
        assert not other.asked
        assert (await bus.js.stream_info("BAT")).state.messages <= 2 * LINES
    # Who takes over knows which lines are left.
    async with Leader(bus, monkeypatch):
        working.append(asyncio.create_task(other.work()))
        await over(author, batch, worker, other)
    assert (await author.get(batch)).progress.epoch == 0
    for task in working:
        await end(task)
    ledger = Ledger()
    async for group in usage_groups(bus):
        ledger.apply(group)
    assert ledger.total().charges == 2 * EACH


async def test_a_batch_that_waits_for_its_charges_to_be_stored_holds_up_no_other_one(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    author, worker, other = Author(bus), Worker(bus), Worker(bus, "other")
    batch = await author.create(lines(ORDERS["in turn"]), options=MIXED)
    working = [asyncio.create_task(worker.work())]
    held: list[Callable[[], None]] = []
    charge = Recorder.charge
    with monkeypatch.context() as patched:
        patched.setattr(
            Recorder,
            "charge",
            lambda self, one, stored: charge(self, one, partial(held.append, stored)),
        )
        async with Leader(bus, monkeypatch) as leader:
            await until(lambda: len(held) > 0, "lines of the one are answered", 20)
            run = leader.engine._runs[batch]
            await until(lambda: len(run.record.progress.lanes) > 0, "it is split", 20)
            second = await author.create(lines(["m"] * 200))
            await until(
                lambda: sum(subjects.token(second)[6:] in name for name in worker.asked) == 200,
                "the lines of the second one are answered",
                20,
            )
            assert not run.publishes
            patched.undo()
            for stored in held:
                stored()
            working.append(asyncio.create_task(other.work()))
            await until(lambda: author.over(batch), "it is over", 30)
    assert set(worker.asked.values()) == set(other.asked.values()) == {1}
    for task in working:
        await end(task)


async def test_a_model_without_workers_holds_up_no_other_one(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    author, worker, other = Author(bus), Worker(bus), Worker(bus, "other")
    models = [model.replace("other", "absent") for model in ORDERS["in turn"]]
    batch = await author.create(lines(models), options=MIXED)
    working = [asyncio.create_task(one.work()) for one in (worker, other)]
    async with Leader(bus, monkeypatch):
        await until(lambda: len(worker.asked) == EACH, "the lines of the one are answered", 20)
        assert (await author.get(batch)).status == states.IN_PROGRESS
        decide = Routes.decide

        async def came(self: Routes, endpoint: str, head: object, body: bytes) -> object:
            found = await decide(self, endpoint, head, body)  # type: ignore[arg-type]
            return found if isinstance(found, tuple) else (OTHER,)

        monkeypatch.setattr(Routes, "decide", came)
        await over(author, batch, worker, other)
    for task in working:
        await end(task)


async def test_a_model_that_is_over_its_limit_holds_up_no_other_one(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lines are delayed again and again, so that the queue itself looks empty."""
    author, worker, other = Author(bus), Worker(bus), Worker(bus, "other")
    publisher = Publisher(bus, timeout_s=2.0)
    await publisher.start()
    # They come back sooner than a worker's would, so it is looked more often where they are.
    monkeypatch.setattr(publish, "_DELAYS_S", 0.0)
    limited = True
    most = 0

    async def answer(job: job_pb2.Job) -> None:
        nonlocal most
        if not limited:
            await Worker._answer(other, job)
            return
        following = job_pb2.Job()
        following.CopyFrom(job)
        following.attempt += 1
        await publish_job(publisher, following, OTHER, lane="bat", delay_s=1.0)
        told = await bus.js.stream_info("SCHED", subjects_filter="sched.bat.*")
        most = max(most, len(told.state.subjects or ()))

    monkeypatch.setattr(other, "_answer", answer)
    batch = await author.create(lines(ORDERS["sorted"]), options=MIXED)
    working = [asyncio.create_task(one.work()) for one in (worker, other)]
    async with Leader(bus, monkeypatch):
        await until(lambda: len(worker.asked) == EACH, "the lines of the one are answered", 20)
        assert (await author.get(batch)).status == states.IN_PROGRESS
        assert most < EACH  # the others wait where they are
        limited = False
        await over(author, batch, worker, other)
    for task in working:
        await end(task)
    await publisher.close()
