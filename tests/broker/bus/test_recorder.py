"""Records: written in groups, exactly once, and nothing is called stored before it is."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import AsyncIterator

import pytest

from broker.bus import Bus
from broker.bus.layout import MAX_MESSAGE, ensure_layout
from broker.bus.queue import Publisher
from broker.bus.recorder import Recorder
from broker.bus.usage import usage_groups
from broker.ledger import Ledger
from broker.v1 import record_pb2
from tests.broker.bus.server import NatsServer, until


@pytest.fixture
async def recorder(bus: Bus) -> AsyncIterator[Recorder]:
    publisher = Publisher(bus, timeout_s=0.4)
    await publisher.start()
    recorder = Recorder(publisher)
    yield recorder
    await recorder.close(0.1)
    await publisher.close()


def charge(number: int, tenant: str = "acme", **more: object) -> record_pb2.Charge:
    made = record_pb2.Charge(request_id=f"r{number}", tenant=tenant, **more)  # type: ignore[arg-type]
    made.usage.output_tokens = 1
    return made


def attempt(number: int, tenant: str = "acme") -> record_pb2.AttemptRecord:
    return record_pb2.AttemptRecord(request_id=f"r{number}", attempt=1, tenant=tenant)


async def ledger(bus: Bus) -> Ledger:
    ledger = Ledger()
    async for group in usage_groups(bus):
        ledger.apply(group)
    return ledger


async def messages(bus: Bus) -> int:
    return (await bus.js.stream_info("USAGE")).state.messages


async def charged(bus: Bus, count: int) -> bool:
    return (await ledger(bus)).total().charges == count


async def test_records_of_a_moment_are_one_message_per_tenant(bus: Bus, recorder: Recorder) -> None:
    for n in range(50):
        recorder.charge(charge(n, "acme"))
        recorder.charge(charge(100 + n, "zeta"))
    assert recorder.pending == 100
    await until(lambda: recorder.pending == 0, "all is stored")
    assert await messages(bus) == 2
    total = (await ledger(bus)).total()
    assert (total.charges, total.tokens["output_tokens"]) == (100, 100)


async def test_a_group_has_a_largest_number_of_records(bus: Bus, recorder: Recorder) -> None:
    for n in range(1000):
        recorder.charge(charge(n))
    await until(lambda: recorder.pending == 0, "all is stored")
    assert await messages(bus) == 5
    assert (await ledger(bus)).total().charges == 1000


async def test_an_attempt_is_committed_after_it_is_stored_and_not_before(
    nats: NatsServer, bus: Bus, recorder: Recorder
) -> None:
    committed: list[int] = []
    nats.signal(signal.SIGSTOP)
    recorder.attempt(attempt(1), lambda: committed.append(1))
    await asyncio.sleep(0.6)
    assert committed == []
    nats.signal(signal.SIGCONT)
    await until(lambda: committed == [1], "it is committed")
    assert (await ledger(bus)).total().attempts == 1


async def test_an_answer_that_was_lost_does_not_double_a_record(
    nats: NatsServer, bus: Bus, recorder: Recorder
) -> None:
    nats.signal(signal.SIGSTOP)
    recorder.charge(charge(1))
    # Long enough for several tries, all of which the server will find when it wakes.
    await asyncio.sleep(2)
    nats.signal(signal.SIGCONT)
    await until(lambda: recorder.pending == 0, "it is stored")
    assert await messages(bus) == 1
    assert (await ledger(bus)).total().tokens["output_tokens"] == 1


async def test_charges_made_while_the_server_is_dead_are_stored_when_it_returns(
    nats: NatsServer, bus: Bus, recorder: Recorder
) -> None:
    nats.kill()
    for n in range(300):
        recorder.charge(charge(n))
        await asyncio.sleep(0.002)
    await asyncio.sleep(0.5)
    assert recorder.pending == 300
    await nats.start()
    await until(lambda: recorder.pending == 0, "they are stored")
    assert await charged(bus, 300)


async def test_charges_made_while_there_is_no_stream_are_stored_once_it_is_made(
    bus: Bus, recorder: Recorder
) -> None:
    await bus.js.delete_stream("USAGE")
    recorder.charge(charge(1))
    await asyncio.sleep(0.3)
    assert recorder.pending == 1
    await ensure_layout(bus, 1)
    await until(lambda: charged(bus, 1), "it is stored")


async def test_records_too_large_for_one_message_are_stored_in_several(
    bus: Bus, recorder: Recorder
) -> None:
    committed = 0

    def count() -> None:
        nonlocal committed
        committed += 1

    for n in range(30):
        recorder.charge(charge(n, signature="x" * 100_000))
        recorder.attempt(attempt(n), count)
    await until(lambda: recorder.pending == 0, "all is stored", 5)
    assert committed == 30
    total = (await ledger(bus)).total()
    assert (total.charges, total.attempts) == (30, 30)


async def test_a_charge_whose_labels_alone_are_too_large_is_stored_without_them(
    bus: Bus, recorder: Recorder
) -> None:
    recorder.charge(charge(1, tags=["x" * MAX_MESSAGE], signature="y" * MAX_MESSAGE))
    recorder.charge(charge(2, tags=["kept"], signature="kept"))
    await until(lambda: recorder.pending == 0, "all is stored", 5)
    groups = [group async for group in usage_groups(bus)]
    stored = {c.request_id: c for group in groups for c in group.charges}
    assert stored["r1"].usage.output_tokens == 1
    assert not stored["r1"].tags
    assert not stored["r1"].signature
    assert list(stored["r2"].tags) == ["kept"]


async def test_drain_returns_once_all_is_stored(bus: Bus, recorder: Recorder) -> None:
    recorder.charge(charge(1))
    await recorder.drain()
    assert recorder.pending == 0
    assert await charged(bus, 1)


async def test_closing_without_a_server_ends_in_time_and_says_what_is_lost(
    nats: NatsServer, recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    nats.kill()
    before = asyncio.all_tasks()
    recorder.charge(charge(1))
    recorder.attempt(attempt(2), lambda: None)
    begun = time.monotonic()
    with caplog.at_level(logging.ERROR):
        await recorder.close(0.5)
    assert time.monotonic() - begun < 1.5
    assert "2 usage records" in caplog.text
    await asyncio.sleep(0)
    assert not [task for task in asyncio.all_tasks() - before if task.get_name() == "records"]


async def test_what_cannot_be_read_in_the_stream_is_passed_over_and_counted(
    bus: Bus, recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        await bus.js.publish("usage.acme", b"\xff\xff\xff")
    recorder.charge(charge(1))
    await recorder.drain()
    assert await charged(bus, 1)
    assert "2 groups of usage records cannot be read" in caplog.text


async def test_reading_usage_ends_where_the_stream_ended_and_leaves_nothing(bus: Bus) -> None:
    assert [group async for group in usage_groups(bus)] == []
    assert (await bus.js.stream_info("USAGE")).state.consumer_count == 0
