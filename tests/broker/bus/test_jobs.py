"""Withdrawing, offering and burying jobs, on a real server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from broker import subjects
from broker.bus import Bus
from broker.bus import jobs as jobs_module
from broker.bus.jobs import Jobs, serve_direct, settle
from broker.bus.queue import ACK, Delivery, Puller
from broker.v1 import job_pb2
from tests.broker.bus.server import NatsServer, until

SUBJECT = subjects.job("int", "sim", "main", "_")
CONSUMER = subjects.consumer("int", "sim", "main")
LETTER = job_pb2.Job(request_id="req_1")


@pytest.fixture
async def jobs(bus: Bus) -> AsyncIterator[Jobs]:
    jobs = Jobs(bus)
    yield jobs
    await jobs.close()


async def left(bus: Bus) -> int:
    return (await bus.js.stream_info("INT")).state.messages


async def test_deleting_a_job_that_a_worker_holds_frees_its_place_at_once(
    bus: Bus, jobs: Jobs
) -> None:
    config = (await bus.js.consumer_info("INT", CONSUMER)).config
    config.max_ack_pending = 1
    await bus.js.add_consumer("INT", config)
    first = (await bus.js.publish(SUBJECT, b"1")).seq
    await bus.js.publish(SUBJECT, b"2")
    got: list[Delivery] = []
    puller = Puller(bus, "INT", CONSUMER, got.append, lambda: None)
    await puller.start()
    puller.pull(2)
    await until(lambda: got, "the first came")
    await asyncio.sleep(0.1)
    assert len(got) == 1
    begun = time.monotonic()
    jobs.delete("INT", first)
    await until(lambda: len(got) == 2, "the second came")
    assert time.monotonic() - begun < 0.5
    await settle(bus, got[0].reply, ACK)  # the late ack of a deleted one harms nobody
    await settle(bus, got[1].reply, ACK)

    async def empty() -> bool:
        return await left(bus) == 0

    await until(empty, "all is gone")
    await puller.close()


async def test_a_deleted_job_is_never_delivered(bus: Bus, jobs: Jobs) -> None:
    sequences = [(await bus.js.publish(SUBJECT, b"%d" % n)).seq for n in range(40)]
    for sequence in sequences[::2]:
        jobs.delete("INT", sequence)

    async def half() -> bool:
        return await left(bus) == 20

    await until(half, "half are gone")
    got: list[Delivery] = []
    puller = Puller(bus, "INT", CONSUMER, got.append, lambda: None)
    await puller.start()
    puller.pull(40)
    await until(lambda: len(got) == 20, "the others came")
    assert {int(d.data) % 2 for d in got} == {1}
    await puller.close()


async def test_deleting_what_is_gone_or_never_was_is_nothing(bus: Bus, jobs: Jobs) -> None:
    sequence = (await bus.js.publish(SUBJECT, b"1")).seq
    for _ in range(3):
        jobs.delete("INT", sequence)
    jobs.delete("INT", 999_999)
    await until(lambda: not jobs._tasks, "all are done")
    assert await left(bus) == 0


async def test_closing_while_the_server_is_away_ends_soon_and_leaves_no_task(
    nats: NatsServer, bus: Bus
) -> None:
    jobs = Jobs(bus)
    nats.kill()
    for n in range(50):
        jobs.delete("INT", n)
    begun = time.monotonic()
    await jobs.close()
    assert time.monotonic() - begun < 3
    await asyncio.sleep(0)
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "delete job"]


async def test_a_direct_offer_is_taken_refused_or_not_heard(bus: Bus, jobs: Jobs) -> None:
    assert await jobs.ask_direct("sim", "main", b"job") is False  # nobody is there
    offers: list[bytes] = []
    room = True

    def take(job: bytes) -> bool:
        offers.append(job)
        return room

    stop = await serve_direct(bus, "sim", "main", take)
    assert await jobs.ask_direct("sim", "main", b"1") is True
    room = False
    assert await jobs.ask_direct("sim", "main", b"2") is False
    assert await jobs.ask_direct("sim", "other", b"3") is False
    await stop()
    assert await jobs.ask_direct("sim", "main", b"4") is False
    assert offers == [b"1", b"2"]


async def test_one_of_many_workers_gets_a_direct_offer(nats: NatsServer, jobs: Jobs) -> None:
    offers = [0, 0, 0]
    buses = [await nats.bus() for _ in offers]

    for number, bus in enumerate(buses):

        def take(_job: bytes, number: int = number) -> bool:
            offers[number] += 1
            return True

        await serve_direct(bus, "sim", "main", take)
        await bus.nc.flush()
    for _ in range(30):
        assert await jobs.ask_direct("sim", "main", b"job")
    assert sum(offers) == 30
    assert min(offers) > 0
    for bus in buses:
        await bus.close()


async def test_an_offer_that_a_worker_cannot_read_is_refused(bus: Bus, jobs: Jobs) -> None:
    def take(_job: bytes) -> bool:
        raise ValueError("not a job")

    await serve_direct(bus, "sim", "main", take)
    begun = time.monotonic()
    assert await jobs.ask_direct("sim", "main", b"?") is False
    assert time.monotonic() - begun < 0.5


async def test_a_dead_letter_keeps_the_job_and_the_reason(bus: Bus, jobs: Jobs) -> None:
    await jobs.bury("int", "sim", "main", LETTER, "worker lost 3 times")
    message = await bus.js.get_msg("DLQ", 1)
    assert message.subject == "dlq.int.sim.main"
    assert message.data == LETTER.SerializeToString()
    assert (message.headers or {})["Millrace-Reason"] == "worker lost 3 times"


async def test_a_reason_of_several_lines_is_one_header(bus: Bus, jobs: Jobs) -> None:
    await jobs.bury("int", "sim", "main", LETTER, "one\r\ntwo\nEvil: yes")
    headers = (await bus.js.get_msg("DLQ", 1)).headers or {}
    assert "Evil" not in headers
    assert "two" in headers["Millrace-Reason"]


async def test_a_letter_is_stored_once_though_the_server_was_away(
    nats: NatsServer, bus: Bus, jobs: Jobs
) -> None:
    nats.kill()
    burying = asyncio.create_task(jobs.bury("int", "sim", "main", LETTER, "why"))
    await asyncio.sleep(0.5)
    await nats.start()
    await asyncio.wait_for(burying, 10)
    assert (await bus.js.stream_info("DLQ")).state.messages == 1


async def test_burying_and_settling_without_a_server_never_raise(
    nats: NatsServer, bus: Bus, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs_module, "_BURY_S", 0.1)
    bus.js._timeout = 0.3
    nats.kill()
    await until(lambda: not bus.connected, "it is away")
    await asyncio.wait_for(jobs.bury("int", "sim", "main", LETTER, "why"), 3)
    await settle(bus, "$JS.ACK.INT.x.1.1.1.1.0", ACK)
    await bus.close()
    await settle(bus, "$JS.ACK.INT.x.1.1.1.1.0", ACK)
