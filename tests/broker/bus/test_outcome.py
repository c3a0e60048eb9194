"""Results of lines are written once, whatever the stream says and whoever else writes (R17)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from broker import subjects
from broker.bus import Bus
from broker.bus.outcome import Outcomes
from broker.bus.queue import Publisher
from broker.bus.responses import Blobs
from broker.v1 import batch_pb2
from tests.broker.bus.server import until

BATCH = "batch_1"
LARGE = b'"' + b"x" * 600_000 + b'"'


@pytest.fixture
async def outcomes(bus: Bus) -> AsyncIterator[Outcomes]:
    publisher = Publisher(bus)
    await publisher.start()
    outcomes = Outcomes(bus, publisher, Blobs(bus))
    yield outcomes
    await outcomes.close()
    await publisher.close()


def result(body: bytes = b"{}", number: int = 1, attempt: int = 1) -> batch_pb2.LineResult:
    return batch_pb2.LineResult(number=number, status=200, json=body, attempt=attempt)


async def write(outcomes: Outcomes, *results: batch_pb2.LineResult) -> None:
    """Write results, the later ones while the earlier ones are under way."""
    stored = []
    for one in results:
        event = asyncio.Event()
        stored.append(event)
        await outcomes.write(BATCH, one, event.set)
    async with asyncio.timeout(10):
        for event in stored:
            await event.wait()


async def kept(bus: Bus, number: int = 1) -> batch_pb2.LineResult:
    found = await bus.js.get_last_msg("RES", subjects.result(BATCH, number))
    return batch_pb2.LineResult.FromString(found.data or b"")


async def test_of_many_results_of_a_line_one_is_kept_and_all_are_told(
    bus: Bus, outcomes: Outcomes
) -> None:
    assert not await outcomes.exists(BATCH, 1)
    await write(outcomes, *(result(attempt=n) for n in range(1, 11)))
    assert (await bus.js.stream_info("RES")).state.messages == 1
    first = await kept(bus)
    await write(outcomes, result(attempt=11))
    assert await kept(bus) == first
    assert await outcomes.exists(BATCH, 1)
    assert not await outcomes.exists(BATCH, 2)


async def test_of_large_results_of_a_line_one_object_is_kept(bus: Bus, outcomes: Outcomes) -> None:
    await write(outcomes, *(result(LARGE, attempt=n) for n in range(1, 4)))
    one = await kept(bus)
    assert await Blobs(bus).get(one.object.name) == LARGE
    store = await bus.js.object_store(subjects.BLOBS)
    assert [entry.name for entry in await store.list() if not entry.deleted] == [one.object.name]


async def test_a_full_stream_is_not_taken_for_a_result_that_is_there(
    bus: Bus, outcomes: Outcomes
) -> None:
    config = (await bus.js.stream_info("RES")).config
    await bus.js.update_stream(config.evolve(max_msgs=1))
    await write(outcomes, result())
    waiting, again = asyncio.Event(), asyncio.Event()
    await outcomes.write(BATCH, result(number=2), waiting.set)
    await outcomes.write(BATCH, result(), again.set)
    await asyncio.wait_for(again.wait(), 5)  # this one is there
    assert not waiting.is_set()
    await bus.js.update_stream(config)
    await asyncio.wait_for(waiting.wait(), 5)
    await until(lambda: outcomes.exists(BATCH, 2), "it is there")


async def test_a_result_that_no_message_takes_becomes_an_error_and_holds_nothing_up(
    bus: Bus, outcomes: Outcomes
) -> None:
    huge = result()
    huge.custom_id, huge.cost.nano_usd = "x" * 1_500_000, 7
    await write(outcomes, huge, result(number=2))
    left = await kept(bus)
    assert (left.number, left.status, left.error.code) == (1, 0, "result_too_large")
    assert (left.custom_id, left.cost.nano_usd) == ("x" * 512, 7)
    assert (await kept(bus, 2)).status == 200


async def test_what_was_not_answered_at_the_end_is_insisted_on_no_longer(
    outcomes: Outcomes,
) -> None:
    await outcomes.write(BATCH, result(), lambda: None)
    await outcomes.write(BATCH, result(LARGE, number=2), lambda: None)
    await outcomes.close()
    await outcomes._publisher.close()
    for _ in range(3):
        await asyncio.sleep(0)
    assert "result" not in {task.get_name() for task in asyncio.all_tasks()}


async def test_a_bug_behind_a_result_that_was_insisted_on_is_told(
    outcomes: Outcomes, caplog: pytest.LogCaptureFixture
) -> None:
    def fails() -> None:
        raise ValueError("a bug")

    await outcomes.write(BATCH, result(LARGE), fails)
    await until(lambda: "task result failed" in caplog.text, "it is told")
