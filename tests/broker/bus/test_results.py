"""Results of lines: read by ranges whatever their size, and followed whatever the server does."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from broker import subjects
from broker.bus import Bus, BusError
from broker.bus.results import Results, Seen
from broker.v1 import batch_pb2
from tests.broker.bus.server import NatsServer, until


async def write(bus: Bus, batch: str, number: int, body: bytes = b"{}") -> None:
    result = batch_pb2.LineResult(number=number, custom_id=f"c{number}", status=200, json=body)
    await bus.js.publish(subjects.result(batch, number), result.SerializeToString())


async def test_a_range_has_what_is_there_of_its_lines(bus: Bus) -> None:
    for number in range(1, 2001, 2):
        await write(bus, "b1", number)
    await write(bus, "b2", 2)
    results = Results(bus)
    found = await results.range("b1", range(1, 1001))
    assert sorted(found) == list(range(1, 1001, 2))
    assert found[7].custom_id == "c7"
    assert await results.range("b1", [2, 4]) == {}
    assert await results.range("unknown", [1]) == {}
    bits = await results.present("b1")
    assert [n for n in range(8 * len(bits)) if bits[n >> 3] >> (n & 7) & 1] == list(
        range(1, 2001, 2)
    )
    await results.purge("b1")
    assert await results.range("b1", [1]) == {}
    assert len(await results.range("b2", [2])) == 1


async def test_a_stream_that_does_not_answer_is_not_taken_for_one_without_results(
    bus: Bus,
) -> None:
    await write(bus, "b", 1)
    await bus.js.delete_stream("RES")
    with pytest.raises(BusError, match="cannot read RES: stream not found"):
        await Results(bus).present("b")


async def test_a_range_of_large_results_comes_in_parts(bus: Bus) -> None:
    for number in range(40):
        await write(bus, "b", number, b"x" * 500_000)
    found = await Results(bus).range("b", range(50))
    assert sorted(found) == list(range(40))


async def test_a_follower_sees_each_result_once_through_a_restart(
    nats: NatsServer, bus: Bus
) -> None:
    results = Results(bus)
    for number in range(2500):
        await write(bus, "b", number)
    seen: list[Seen] = []

    async def follow() -> None:
        async with contextlib.aclosing(results.follow(501)) as groups:
            async for group in groups:
                seen.extend(group)

    task = asyncio.create_task(follow())
    await until(lambda: len(seen) == 2000, "what was there is seen")
    assert [s.sequence for s in seen] == list(range(501, 2501))
    assert {s.batch_token for s in seen} == {"b"}
    nats.kill()
    await nats.start()
    await until(lambda: bus.connected, "it is connected again")
    for number in range(2500, 2600):
        await write(bus, "b", number)
    await until(lambda: len(seen) == 2100, "what came later is seen")
    assert [s.sequence for s in seen] == list(range(501, 2601))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
