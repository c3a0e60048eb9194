"""One run and its readers: all of it for each, as fast as the fastest, within bounds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest

from broker.bus.layout import MAX_INLINE_BODY
from broker.errors import InferenceError
from broker.v1 import event_pb2
from edge.claims import Claim
from edge.run import AHEAD_BYTES, BEHIND_BYTES, Reader, Run

KIB = 1 << 10


def text(size: int) -> event_pb2.Event:
    return event_pb2.Event(text=event_pb2.TextDelta(text="x" * size))


DONE = event_pb2.Event(completed=event_pb2.Completed())


class Inner:
    """An exchange of a test's own events."""

    request_id, answer_id, created, route = "req", "chatcmpl-1", 7, ""

    def __init__(self) -> None:
        self.given: asyncio.Queue[Sequence[event_pb2.Event] | InferenceError] = asyncio.Queue()
        self.closes = 0

    async def next(self) -> Sequence[event_pb2.Event]:
        given = await self.given.get()
        if isinstance(given, InferenceError):
            raise given
        return given

    def divert(self, take: Callable[[Sequence[event_pb2.Event]], bool]) -> None:
        raise AssertionError(f"{take} would read past the others")

    def close(self) -> None:
        self.closes += 1
        self.given.put_nowait(())

    def say(self, *events: event_pb2.Event) -> None:
        self.given.put_nowait(events)


class Kept:
    """A claim, and what became of it."""

    request_hash = b"hash"

    def __init__(self) -> None:
        self.events: Sequence[event_pb2.Event] | None = None
        self.released = False

    async def answered(self, _id: str, _created: int, events: Sequence[event_pb2.Event]) -> None:
        self.events = events

    def release(self) -> None:
        self.released = True


class Story:
    def __init__(self) -> None:
        self.inner, self.claim = Inner(), Kept()
        self.runs: dict[str, Run] = {}
        self.run = Run(self.inner, cast("Claim", self.claim), self.runs)

    def join(self) -> Reader:
        reader = self.run.join()
        assert reader is not None
        return reader


@pytest.fixture
async def story() -> Story:
    return Story()


async def rest(reader: Reader) -> list[Any]:
    found: list[Any] = []
    while batch := await reader.next():
        found.extend(batch)
    return found


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_each_reader_has_all_of_it_and_the_end_is_kept_first(story: Story) -> None:
    first = story.join()
    story.inner.say(text(1))
    assert await first.next() == [text(1)]
    late = story.join()
    story.inner.say(text(2), DONE)
    assert await rest(first) == [text(2), DONE]
    assert story.claim.events == [text(1), text(2), DONE]
    assert await rest(late) == [text(1), text(2), DONE]
    await settle()
    assert not story.runs
    assert story.inner.closes


async def test_what_is_too_large_to_be_kept_cannot_be_joined(story: Story) -> None:
    reader = story.join()
    for _ in range(3):
        story.inner.say(text(MAX_INLINE_BODY // 2))
        assert await reader.next()
    await settle()
    assert story.run.join() is None
    assert story.run.too_large
    story.inner.say(DONE)
    assert await rest(reader) == [DONE]
    assert story.claim.events == []


async def test_reading_on_costs_the_same_however_much_came_before(story: Story) -> None:
    def seconds() -> float:
        begun = time.perf_counter()
        for _ in range(50):
            assert story.run.since(story.run.end - 1) == [text(1)]
        return time.perf_counter() - begun

    reader = story.join()
    story.inner.say(text(1))
    assert await reader.next()
    early = min(seconds() for _ in range(5))
    for _ in range(20_000):
        story.inner.say(text(1))
    while story.run.end < 20_000:
        await reader.next()
    assert min(seconds() for _ in range(5)) < 20 * early


async def test_the_fastest_reader_sets_the_pace_and_the_slowest_is_left_behind(
    story: Story,
) -> None:
    fast, slow = story.join(), story.join()
    for _ in range(BEHIND_BYTES // (64 * KIB) + 8):
        story.inner.say(text(64 * KIB))
    await settle()
    # Nobody reads: it waits.
    assert story.run.size <= AHEAD_BYTES + 65 * KIB
    while not story.inner.given.empty():
        assert await fast.next()
        await settle()
    with pytest.raises(InferenceError) as caught:
        await slow.next()
    assert caught.value.reason == "client_gone"
    story.inner.say(DONE)
    assert (await rest(fast))[-1] == DONE


async def test_it_ends_with_its_last_reader(story: Story) -> None:
    first, second = story.join(), story.join()
    story.inner.say(text(1))
    await first.next()
    first.close()
    await settle()
    assert story.inner.closes == 0
    second.close()
    assert story.run.join() is None
    await settle()
    assert story.inner.closes
    assert story.claim.released
    assert story.claim.events is None


async def test_a_failure_is_every_readers(story: Story) -> None:
    readers = story.join(), story.join()
    story.inner.given.put_nowait(InferenceError("upstream_error", "broken"))
    for reader in readers:
        with pytest.raises(InferenceError) as caught:
            await reader.next()
        assert caught.value.reason == "upstream_error"
    assert story.claim.released
