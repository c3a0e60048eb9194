"""Publishing: every message gets exactly one outcome, whatever becomes of the server."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest

from broker import subjects
from broker.bus import Bus
from broker.bus.queue import STREAM_FULL, TOO_LARGE, PubAck, Publisher
from tests.broker.bus.server import NatsServer, Proxy, until

JOB = subjects.job("int", "sim", "main", "_")


@pytest.fixture
async def publisher(bus: Bus) -> AsyncIterator[Publisher]:
    publisher = Publisher(bus, timeout_s=0.5)
    await publisher.start()
    yield publisher
    await publisher.close()


async def stored(bus: Bus, stream: str = "INT") -> int:
    return (await bus.js.stream_info(stream)).state.messages


async def test_a_message_is_acknowledged_with_its_sequence(bus: Bus, publisher: Publisher) -> None:
    acks = [await publisher.request(JOB, b"job", Nats_Msg_Id=f"r.{n}") for n in (1, 2)]
    assert [(a.stream, a.seq, a.duplicate, a.error, a.unavailable) for a in acks] == [
        ("INT", 1, False, None, False),
        ("INT", 2, False, None, False),
    ]
    message = await bus.js.get_msg("INT", 1)
    assert (message.subject, message.data) == (JOB, b"job")
    assert message.headers == {"Nats-Msg-Id": "r.1"}


async def test_the_same_message_id_again_is_said_to_be_a_duplicate(publisher: Publisher) -> None:
    first = await publisher.request(JOB, b"job", Nats_Msg_Id="r.1")
    again = await publisher.request(JOB, b"job", Nats_Msg_Id="r.1")
    assert not first.duplicate
    assert again.duplicate


async def test_a_full_queue_is_an_error_with_its_code(bus: Bus, publisher: Publisher) -> None:
    config = (await bus.js.stream_info("INT")).config
    await bus.js.update_stream(config, max_msgs_per_subject=2)
    acks = [await publisher.request(JOB, b"job") for _ in range(3)]
    assert [a.error is None for a in acks] == [True, True, False]
    assert acks[2].error is not None
    assert acks[2].error.err_code == STREAM_FULL
    assert not acks[2].unavailable
    other = subjects.job("int", "sim", "main", "another-model")
    assert (await publisher.request(other, b"job")).error is None


async def test_without_a_stream_it_is_unavailable_at_once(publisher: Publisher) -> None:
    begun = time.monotonic()
    assert (await publisher.request("no.such.stream", b"job")).unavailable
    assert time.monotonic() - begun < 0.3


async def test_a_frozen_server_is_unavailable_after_the_timeout_and_a_late_ack_is_ignored(
    nats: NatsServer, publisher: Publisher
) -> None:
    outcomes: list[PubAck] = []
    nats.signal(signal.SIGSTOP)
    begun = time.monotonic()
    await publisher.send(JOB, b"job", outcomes.append)
    await until(lambda: outcomes, "it times out")
    assert 0.4 < time.monotonic() - begun < 1.0
    nats.signal(signal.SIGCONT)
    assert not (await publisher.request(JOB, b"job", Nats_Msg_Id="x")).unavailable
    assert [ack.unavailable for ack in outcomes] == [True]


@pytest.mark.parametrize("beyond", [-60, 1])
async def test_what_nats_does_not_take_is_an_error_and_harms_nobody_else(
    bus: Bus, publisher: Publisher, beyond: int
) -> None:
    outcomes: list[PubAck] = []
    too_large = bytes(bus.nc.max_payload + beyond)
    await publisher.send(JOB, too_large, outcomes.append, Nats_Msg_Id="x" * 60)
    assert outcomes == []  # never from within
    await until(lambda: outcomes, "it has an outcome")
    assert outcomes[0].error is not None
    assert outcomes[0].error.err_code == TOO_LARGE
    assert not outcomes[0].unavailable  # no other way would take it
    assert not (await publisher.request(JOB, b"job")).unavailable
    assert bus.nc.stats["reconnects"] == 0


async def test_closing_gives_an_outcome_to_whoever_still_waits(nats: NatsServer, bus: Bus) -> None:
    publisher = Publisher(bus, timeout_s=60)
    await publisher.start()
    nats.signal(signal.SIGSTOP)
    waiting = [asyncio.create_task(publisher.request(JOB, b"job")) for _ in range(5)]
    await asyncio.sleep(0)
    await publisher.close()
    acks = await asyncio.wait_for(asyncio.gather(*waiting), 1)
    assert all(ack.unavailable for ack in acks)
    late = await asyncio.wait_for(publisher.request(JOB, b"job"), 1)
    assert late.unavailable


async def test_each_of_many_sends_has_one_outcome_though_the_server_is_killed_and_returns(
    nats: NatsServer, bus: Bus, publisher: Publisher
) -> None:
    outcomes: Counter[int] = Counter()
    acknowledged: set[str] = set()
    sent = 0
    stop = False

    def settled(number: int, ack: PubAck) -> None:
        outcomes[number] += 1
        if not ack.unavailable and ack.error is None:
            acknowledged.add(f"r.{number}")

    async def load() -> None:
        nonlocal sent
        while not stop:
            for _ in range(20):
                number = sent = sent + 1

                def callback(ack: PubAck, number: int = number) -> None:
                    settled(number, ack)

                await publisher.send(JOB, b"job", callback, Nats_Msg_Id=f"r.{number}")
            await asyncio.sleep(0.005)

    task = asyncio.create_task(load())
    for _ in range(2):
        base = len(acknowledged)
        await until(lambda base=base: len(acknowledged) > base + 300, "the load is taken")  # type: ignore[misc]
        nats.kill()
        await asyncio.sleep(0.2)
        await nats.start()
        await until(lambda: bus.connected, "reconnected")
    base = len(acknowledged)
    await until(lambda: len(acknowledged) > base + 100, "the load is taken again")
    stop = True
    await task
    await until(lambda: len(outcomes) == sent, "each has an outcome")
    await asyncio.sleep(0.7)  # longer than the timeout: nothing comes twice
    assert set(outcomes.values()) == {1}
    assert publisher._waiting == {}
    # What was acknowledged is there.
    present = set()
    first, last = 1, (await bus.js.stream_info("INT")).state.last_seq
    for seq in range(first, last + 1, 37):
        message = await bus.js.get_msg("INT", seq)
        present.add((message.headers or {})["Nats-Msg-Id"])
    assert await stored(bus) >= len(acknowledged)
    assert len(present) == len(range(first, last + 1, 37))


async def test_publishing_goes_on_over_a_connection_that_broke(far: Bus, proxy: Proxy) -> None:
    publisher = Publisher(far, timeout_s=0.5)
    await publisher.start()
    assert not (await publisher.request(JOB, b"job")).unavailable
    proxy.cut()

    async def again() -> bool:
        return not (await publisher.request(JOB, b"job")).unavailable

    await until(again, "it is acknowledged again", 3)
    await publisher.close()


@pytest.mark.parametrize("anyio_backend", [("asyncio", {"use_uvloop": True})])
async def test_a_connection_that_ended_unheard_of_costs_an_answer_and_no_error(
    bus: Bus, publisher: Publisher
) -> None:
    client: Any = bus.nc
    # As it is between the end of a connection and the news of it.
    client._flusher_task.cancel()
    await asyncio.sleep(0)
    client._transport._io_writer.transport.abort()
    assert bus.nc.is_connected
    outcomes: list[PubAck] = []
    await publisher.send(JOB, b"job", outcomes.append)
    await until(lambda: outcomes, "it has an outcome")
    await until(lambda: bus.nc.stats["reconnects"], "it reconnects")
    assert not (await publisher.request(JOB, b"job")).unavailable
