from __future__ import annotations

import asyncio

import pytest

from broker import subjects
from broker.bus import Bus
from broker.bus.eventlog import EventLog, FencedError
from broker.bus.layout import ensure_layout
from broker.bus.queue import Publisher
from broker.bus.responses import ConflictError, Responses
from broker.v1 import event_pb2, stored_pb2

DAY = 86_400


def record(name: str = "resp_1", text: str = "hello") -> stored_pb2.StoredResponse:
    stored = stored_pb2.StoredResponse(id=name, owner="a.b", created_at=7)
    stored.request.generate.model = "sim/echo"
    stored.answer.choices.add().message.parts.add().text.text = text
    return stored


def text(piece: str) -> event_pb2.Event:
    return event_pb2.Event(text=event_pb2.TextDelta(text=piece))


@pytest.mark.parametrize("size", [5, 3_000_000])
async def test_what_is_stored_is_read_as_it_was_whatever_its_size(bus: Bus, size: int) -> None:
    store = Responses(bus).responses
    written = record(text="x" * size)
    await store.create(written)
    kept = await store.get("a.b", "resp_1")
    assert kept is not None
    kept.record.ClearField("object")
    written.ClearField("object")
    assert kept.record == written
    with pytest.raises(ConflictError):
        await store.create(record())


async def test_another_owner_with_the_same_token_sees_nothing(bus: Bus) -> None:
    store = Responses(bus).responses
    await store.create(record())
    assert await store.get("a_b", "resp_1") is None
    assert await store.get("a", "resp_1") is None
    assert not await store.delete("a_b", "resp_1")


async def test_of_two_that_change_a_record_one_is_told(bus: Bus) -> None:
    store = Responses(bus).responses
    await store.create(record())
    one, two = await store.get("a.b", "resp_1"), await store.get("a.b", "resp_1")
    assert one is not None
    assert two is not None
    one.record.attempt = 1
    await store.update(one)
    two.record.attempt = 2
    with pytest.raises(ConflictError):
        await store.update(two)


async def test_a_small_change_of_a_large_record_leaves_its_large_part_alone(bus: Bus) -> None:
    store = Responses(bus).responses
    await store.create(record(text="x" * 1_000_000))

    def count(stored: stored_pb2.StoredResponse) -> bool:
        assert not stored.HasField("answer")
        stored.attempt += 1
        return True

    for _ in range(3):
        await store.change("a.b", "resp_1", count)
    kept = await store.get("a.b", "resp_1")
    assert kept is not None
    assert kept.record.attempt == 3
    assert len(kept.record.answer.choices[0].message.parts[0].text.text) == 1_000_000


async def test_deleting_takes_the_large_part_along(bus: Bus) -> None:
    store = Responses(bus).responses
    await store.create(record(text="x" * 1_000_000))
    assert await store.delete("a.b", "resp_1")
    assert await store.get("a.b", "resp_1") is None
    chunks = await bus.js.stream_info("OBJ_blobs", subjects_filter="$O.blobs.C.>")
    assert not chunks.state.subjects


async def test_retention_is_the_servers_and_follows_the_setting(bus: Bus) -> None:
    async def ages() -> list[float | None]:
        names = ("KV_responses", "EVENTS")
        return [(await bus.js.stream_info(name)).config.max_age for name in names]

    assert await ages() == [30 * DAY, 30 * DAY]
    await ensure_layout(bus, 1, 1.0)
    assert await ages() == [1, 1]
    await Responses(bus).responses.create(record())
    await bus.js.publish(subjects.events("resp_1"), b"")

    async with asyncio.timeout(10):
        while (await bus.js.stream_info("KV_responses")).state.messages:
            await asyncio.sleep(0.05)
        while (await bus.js.stream_info("EVENTS")).state.messages:
            await asyncio.sleep(0.05)
    assert await Responses(bus).responses.get("a.b", "resp_1") is None
    await ensure_layout(bus, 1)
    assert await ages() == [30 * DAY, 30 * DAY]


async def test_r18_a_job_that_waits_goes_no_sooner_than_its_response(bus: Bus) -> None:
    for retention_s in (30 * DAY, 90 * DAY, 1.0):
        await ensure_layout(bus, 1, retention_s)
        ages = {
            name: (await bus.js.stream_info(name)).config.max_age
            for name in ("KV_responses", "EVENTS", "BG", "OBJ_blobs")
        }
        kept = ages["KV_responses"]
        assert kept == retention_s
        assert min(ages[name] or 0 for name in ("BG", "OBJ_blobs", "EVENTS")) >= kept
        # Answers of batches are there, too.
        assert (ages["OBJ_blobs"] or 0) > 16 * DAY
    await ensure_layout(bus, 1)


async def test_a_log_takes_nothing_from_a_writer_that_was_replaced(bus: Bus) -> None:
    log = EventLog(bus, Responses(bus).blobs)
    publisher = Publisher(bus)
    await publisher.start()

    async def append(attempt: int, last: int, *events: event_pb2.Event) -> int:
        logged = stored_pb2.LoggedEvents(attempt=attempt, events=events)
        return await log.append(publisher, "resp_1", logged, last=last, patience_s=5)

    first = await append(1, 0, text("one "))
    fence = await append(2, first)
    with pytest.raises(FencedError):
        await append(1, first, text("from the dead"))
    await append(2, fence, text("two" * 300_000))
    events, last = await log.read("resp_1", 1)
    assert [event.text.text[:4] for event in events] == ["one ", "twot"]
    assert [event.text.text[:4] for event in (await log.read("resp_1", 2))[0]] == ["twot"]
    assert last == await log.last("resp_1")
    await log.purge("resp_1")
    assert await log.read("resp_1", 1) == ([], 0)
    await publisher.close()


async def test_a_follower_sees_what_was_and_what_comes_up_to_the_end(bus: Bus) -> None:
    log = EventLog(bus, Responses(bus).blobs)
    publisher = Publisher(bus)
    await publisher.start()
    seen: list[str] = []

    async def follow() -> None:
        async for events in log.follow("resp_1", 1):
            seen.extend(event.text.text for event in events if event.HasField("text"))

    logged = stored_pb2.LoggedEvents(attempt=1, events=[text("a")])
    last = await log.append(publisher, "resp_1", logged, last=0, patience_s=5)
    reader = asyncio.create_task(follow())
    async with asyncio.timeout(10):
        while seen != ["a"]:
            await asyncio.sleep(0.01)
        end = event_pb2.Event(completed=event_pb2.Completed())
        logged = stored_pb2.LoggedEvents(attempt=1, events=[text("b"), end])
        await log.append(publisher, "resp_1", logged, last=last, patience_s=5)
        await reader
    assert seen == ["a", "b"]
    await publisher.close()
