"""What is ahead in the batch lane: read from the queue itself, whoever put it there."""

from __future__ import annotations

import math
import time

import pytest

from broker import subjects
from broker.bus import Bus, BusError, backlog
from broker.bus.atomic import MAX_GROUP, Message, TooLargeError, publish_all


def messages(count: int, first: int = 0, size: int = 10) -> list[Message]:
    return [
        Message(f"req.bat.sim.main.m{n % 2}", f"batch_req_x_{n}.1", b"x" * size)
        for n in range(first, first + count)
    ]


async def test_a_group_is_stored_whole_and_once(bus: Bus) -> None:
    assert await publish_all(bus, messages(200))
    assert not await publish_all(bus, messages(200))
    # One of them was stored before: none is now.
    assert not await publish_all(bus, messages(2, first=199))
    lane = await backlog.lane(bus)
    assert lane.ahead == {"req.bat.sim.main.m0": 100, "req.bat.sim.main.m1": 100}
    assert lane.last == 200


async def test_a_group_may_be_larger_than_what_the_client_buffers(bus: Bus) -> None:
    assert await publish_all(bus, messages(10, size=900_000))
    assert sum((await backlog.lane(bus)).ahead.values()) == 10


async def test_a_group_that_is_too_large_is_refused_whole(bus: Bus) -> None:
    with pytest.raises(BusError, match="too large"):
        await publish_all(bus, messages(MAX_GROUP + 1))
    assert (await backlog.lane(bus)).ahead == {}


async def test_a_message_that_the_queue_never_takes_is_refused_before_anything_is_sent(
    bus: Bus,
) -> None:
    with pytest.raises(TooLargeError):
        await publish_all(bus, [*messages(3), *messages(1, first=3, size=1 << 20)])
    assert bus.connected
    assert await publish_all(bus, messages(3))


async def test_what_is_in_flight_is_ahead_until_it_is_acked(bus: Bus) -> None:
    await publish_all(bus, messages(3))
    pools = {("sim", "main")}
    last = (await backlog.lane(bus)).last
    pull = await bus.js.pull_subscribe_bind(subjects.consumer("bat", "sim", "main"), "BAT")
    taken = await pull.fetch(3, timeout=5)
    assert sum((await backlog.lane(bus)).ahead.values()) == 3
    assert not await backlog.passed(bus, last, pools)
    for message in taken[:2]:
        await message.ack_sync()
    assert not await backlog.passed(bus, last, pools)
    await taken[2].ack_sync()
    assert await backlog.passed(bus, last, pools)
    await publish_all(bus, messages(1, first=9))
    assert await backlog.passed(bus, last, pools)
    assert not await backlog.passed(bus, last, {("nobody", "main")})


async def test_delayed_lines_are_counted_by_their_batch(bus: Bus) -> None:
    sim, other = "req.bat.sim.main.m", "req.bat.other.main.m"
    delayed = ("batch_req_aa_1", sim), ("batch_req_aa_2", other), ("batch_req_bb_1", sim)
    for name, target in delayed:
        await bus.js.publish(
            subjects.schedule("bat", name, target),
            b"x",
            headers={
                "Nats-Schedule": "@at 2099-01-01T00:00:00Z",
                "Nats-Schedule-Target": subjects.due("bat", "sim", "main", "m"),
            },
        )
    assert dict(await backlog.scheduled(bus)) == {"batch_req_aa": 2, "batch_req_bb": 1}
    assert dict(await backlog.delayed(bus)) == {
        ("batch_req_aa", subjects.place(sim)): 1,
        ("batch_req_aa", subjects.place(other)): 1,
        ("batch_req_bb", subjects.place(sim)): 1,
    }


async def test_the_oldest_job_is_known_by_its_time(bus: Bus) -> None:
    assert await backlog.oldest(bus) == math.inf
    before = time.time()
    await publish_all(bus, messages(2))
    assert before - 60 < await backlog.oldest(bus) < time.time() + 60
