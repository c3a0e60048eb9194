"""An exchange and what is around it, for tests: a host that writes down what is asked of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from broker import dispatch
from broker.errors import InferenceError
from broker.keys import KeyRecord
from broker.routing import Target
from broker.v1 import event_pb2, generation_pb2
from edge.attempt import Attempt
from edge.exchange import Exchange
from edge.hedged import HedgedExchange

Event = event_pb2.Event
A, B, C = (Target(name, "main", "m", listed=True) for name in "abc")


class Session:
    def __init__(self, worker: str = "") -> None:
        self.worker = worker
        self.killed: list[str] = []
        self.credits: list[int] = []

    def kill(self, reason: str) -> None:
        self.killed.append(reason)

    def credit(self, size: int) -> None:
        self.credits.append(size)


class Host:
    """What an exchange asked for, in order."""

    def __init__(self) -> None:
        self.published: list[Attempt] = []
        # Published, and neither taken by a worker nor refused nor withdrawn.
        self.queued: list[Attempt] = []
        self.withdrawn: list[Attempt] = []
        self.moves: list[tuple[Target, Target]] = []
        # Whether who comes from another pool has to wait for its turn.
        self.full = False
        # Where it gave up waiting for that.
        self.left: list[Target] = []
        # Targets whose breakers are open, and those that it was asked about.
        self.down: set[Target] = set()
        self.asked: list[Target] = []
        self.vacated: list[Target] = []
        self.room = True
        self.charges: list[tuple[int, event_pb2.Usage]] = []
        self.letters: list[int] = []
        self.failures: list[str] = []
        self.over: list[Exchange] = []

    def publish(self, exchange: Exchange, attempt: Attempt) -> None:
        self.published.append(attempt)
        self.queued.append(attempt)

    def taken(self, attempt: Attempt) -> None:
        if attempt in self.queued:
            self.queued.remove(attempt)

    def withdraw(self, attempt: Attempt) -> None:
        attempt.withdrawn = True
        self.withdrawn.append(attempt)
        self.taken(attempt)

    def move(self, exchange: Exchange, old: Target, new: Target, *, launched: bool) -> None:
        self.moves.append((old, new))
        if not launched:
            self.left.append(old)
        if not self.full:
            exchange.launch()

    def resting(self, exchange: Exchange, target: Target) -> bool:
        self.asked.append(target)
        return target in self.down

    def hedge(self, target: Target) -> bool:
        return self.room

    def hedged(self, free: Target, outcome: str) -> None:
        self.vacated.append(free)

    def charge(
        self,
        exchange: Exchange,
        attempt: Attempt,
        started: event_pb2.Started | None,
        completed: event_pb2.Completed,
    ) -> None:
        self.charges.append((attempt.number, completed.usage))

    def failed(self, exchange: Exchange, attempt: Attempt, error: InferenceError) -> None:
        self.failures.append(error.reason)

    def dead_letter(self, exchange: Exchange, attempt: Attempt) -> None:
        self.letters.append(exchange.plan.losses)

    def ended(self, exchange: Exchange) -> None:
        self.over.append(exchange)
        assert not self.queued, "a place in the queue is never given back"

    def jitter(self) -> float:
        return 0.5


class Story:
    """An exchange, its host and the worker's part in it."""

    def __init__(
        self,
        *,
        stream: bool = True,
        targets: tuple[Target, ...] = (A,),
        timeout_s: float = 60,
        request: generation_pb2.Request | None = None,
        hedge_after_s: float = 0,
    ) -> None:
        if request is None:
            request = generation_pb2.Request()
            request.generate.model = "m"
            request.generate.stream = stream
        self.host = Host()
        key = KeyRecord(id="k", name="n", tenant="t", created_at=0)
        self.plan = dispatch.Plan(targets)
        make = partial(HedgedExchange, after_s=hedge_after_s) if hedge_after_s else Exchange
        self.exchange = make(self.host, request, key, "req_1", plan=self.plan, timeout_s=timeout_s)

    @property
    def attempt(self) -> Attempt:
        """The newest that was published."""
        return self.host.published[-1]

    def run(self, *, alone: bool = False) -> Session:
        """A worker is granted the newest attempt."""
        session = Session()
        assert self.exchange.attempt is self.attempt
        self.exchange.granted(self.attempt, session, alone=alone)
        return session

    def begin(self) -> Session:
        self.exchange.launch()
        return self.run()

    def say(self, *events: Event, size: int | None = None) -> None:
        self.say_as(self.attempt, *events, size=size)

    def say_as(self, attempt: Attempt, *events: Event, size: int | None = None) -> None:
        size = sum(event.ByteSize() for event in events) if size is None else size
        self.exchange.on_events(attempt, events, size)

    async def read(self) -> list[Event]:
        """What the caller gets now."""
        async with asyncio.timeout(1):
            return list(await self.exchange.next())

    async def quiet(self) -> bool:
        """Whether the caller has to wait."""
        task = asyncio.ensure_future(self.exchange.next())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        waits = not task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return waits

    async def told(self) -> InferenceError:
        """The error that the caller gets, after whatever comes before it."""
        with pytest.raises(InferenceError) as told:
            while await self.read():
                pass
        return told.value


def started(model: str = "m-1") -> Event:
    return Event(started=event_pb2.Started(model=model, provider="a"))


def text(piece: str) -> Event:
    return Event(text=event_pb2.TextDelta(text=piece))


def failed(reason: str, **more: Any) -> Event:
    return Event(failed=event_pb2.Failure(reason=reason, message="said so", **more))


STOP = Event(choice_finished=event_pb2.ChoiceFinished(reason=event_pb2.FINISH_REASON_STOP))
DONE = Event(completed=event_pb2.Completed(usage=event_pb2.Usage(input_tokens=3, output_tokens=2)))


def texts(events: list[Event]) -> str:
    return "".join(event.text.text for event in events)


async def until(check: Callable[[], Any], timeout_s: float = 5) -> None:
    async with asyncio.timeout(timeout_s):
        while not check():
            await asyncio.sleep(0.002)
