"""An exchange hands batches to whoever takes them at once, and the rest to who waits."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from broker import dispatch
from broker.keys import KeyRecord
from broker.routing import Target
from broker.v1 import event_pb2, generation_pb2
from edge.attempt import Attempt
from edge.exchange import Exchange
from tests.edge.story import Host

STARTED = event_pb2.Event(started=event_pb2.Started(model="m", provider="p"))
COMPLETED = event_pb2.Event(completed=event_pb2.Completed(usage=event_pb2.Usage(output_tokens=1)))


def text(piece: str) -> event_pb2.Event:
    return event_pb2.Event(text=event_pb2.TextDelta(text=piece))


class Session:
    worker = ""

    def __init__(self) -> None:
        self.killed = ""
        self.credited = 0

    def kill(self, reason: str) -> None:
        self.killed = reason

    def credit(self, size: int) -> None:
        self.credited += size


@pytest.fixture
async def running() -> tuple[Exchange, Attempt, Session]:
    """A granted stream whose first text the caller was shown."""
    request = generation_pb2.Request()
    request.generate.stream = True
    plan = dispatch.Plan([Target("p", "main", "m", listed=False)])
    key = KeyRecord(id="k", name="k", tenant="t", created_at=0)
    exchange = Exchange(Host(), request, key, "r", plan=plan, timeout_s=60)
    exchange.launch()
    attempt, session = exchange.attempt, Session()
    assert attempt is not None
    exchange.granted(attempt, session, alone=False)
    exchange.on_events(attempt, [STARTED, text("a")], 10)
    assert list(await exchange.next()) == [STARTED, text("a")]
    return exchange, attempt, session


async def test_what_is_taken_at_once_does_not_come_again(
    running: tuple[Exchange, Attempt, Session],
) -> None:
    exchange, attempt, session = running
    taken: list[event_pb2.Event] = []

    def take(batch: Sequence[event_pb2.Event]) -> bool:
        taken.extend(batch)
        return True

    exchange.divert(take)
    exchange.on_events(attempt, [text("b"), text("c")], 1 << 20)
    assert taken == [text("b"), text("c")]
    assert session.credited > 1 << 20  # as if it had been read
    exchange.on_events(attempt, [text("d"), COMPLETED], 10)
    assert list(await exchange.next()) == [text("d"), COMPLETED]
    assert not await exchange.next()
    assert taken == [text("b"), text("c")]


async def test_what_is_refused_waits_in_order(running: tuple[Exchange, Attempt, Session]) -> None:
    exchange, attempt, session = running
    offered: list[list[event_pb2.Event]] = []
    answers = iter([False, True])

    def take(batch: Sequence[event_pb2.Event]) -> bool:
        offered.append(list(batch))
        return next(answers)

    exchange.divert(take)
    exchange.on_events(attempt, [text("b")], 1 << 20)
    assert not session.credited
    exchange.on_events(attempt, [text("c")], 10)
    assert offered == [[text("b")], [text("b"), text("c")]]
    assert session.credited


async def test_a_taker_that_breaks_ends_its_own_request(
    running: tuple[Exchange, Attempt, Session],
) -> None:
    exchange, attempt, session = running

    def take(batch: Sequence[event_pb2.Event]) -> bool:
        raise LookupError(batch)

    exchange.divert(take)
    exchange.on_events(attempt, [text("b")], 10)
    assert session.killed == "cancelled"
    with pytest.raises(LookupError):
        await exchange.next()
