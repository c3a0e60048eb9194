"""Exchanges of requests that their callers named: one that is kept, and one that was."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from broker.bus.layout import MAX_INLINE_BODY
from broker.v1 import event_pb2, stored_pb2
from edge.claims import Claim
from edge.seams import ExchangeLike

Take = Callable[[Sequence[event_pb2.Event]], bool]


class Replayed:
    """An answer that was given before, as an exchange."""

    def __init__(self, record: stored_pb2.Once) -> None:
        self.request_id = record.request_id
        self.answer_id = record.answer_id
        self.created = record.created
        self.route = ""
        self._events = list(record.events)

    async def next(self) -> Sequence[event_pb2.Event]:
        """All of it at once."""
        events, self._events = self._events, []
        return events

    def divert(self, take: Take) -> None:
        """Everything came with `next`."""

    def close(self) -> None:
        """Nothing runs."""


class Recorded:
    """A running exchange whose answer is kept; nobody is told the end before it is."""

    def __init__(self, inner: ExchangeLike, claim: Claim) -> None:
        self._inner = inner
        self._claim = claim
        self._events: list[event_pb2.Event] = []
        self._size = 0
        self.request_id = inner.request_id
        self.answer_id = inner.answer_id
        self.created = inner.created

    @property
    def route(self) -> str:
        """As the exchange's own."""
        return self._inner.route

    async def next(self) -> Sequence[event_pb2.Event]:
        """As the exchange's own."""
        batch = await self._inner.next()
        self._keep(batch)
        if batch and batch[-1].HasField("completed"):
            small = self._size <= MAX_INLINE_BODY
            events = self._events if small else []
            await self._claim.answered(self.answer_id, self.created, events)
        return batch

    def divert(self, take: Take) -> None:
        """As the exchange's own."""

        def both(batch: Sequence[event_pb2.Event]) -> bool:
            taken = take(batch)
            if taken:
                self._keep(batch)
            return taken

        self._inner.divert(both)

    def close(self) -> None:
        """The caller is done or gone: what was not answered may be asked again."""
        self._inner.close()
        self._claim.release()

    def _keep(self, batch: Sequence[event_pb2.Event]) -> None:
        if self._size <= MAX_INLINE_BODY:
            self._events.extend(batch)
            self._size += sum(event.ByteSize() for event in batch)
