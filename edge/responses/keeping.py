"""A response that runs apart from its caller: stored by its exchange, before anybody is told."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from broker import durable
from broker.answer import Fold
from broker.errors import InferenceError
from broker.translate.responses_object import finished
from broker.v1 import event_pb2, stored_pb2
from broker.wallclock import now
from edge.responses.service import ResponseService
from edge.responses.turn import Turn
from edge.seams import ExchangeLike


class Keeping:
    """An exchange around another one. One that fails is stored once something was said of it."""

    def __init__(self, inner: ExchangeLike, responses: ResponseService, turn: Turn) -> None:
        self.request_id = inner.request_id
        self.answer_id = inner.answer_id
        self.created = inner.created
        self._inner = inner
        self._responses = responses
        self._turn = turn
        self._fold = Fold()
        self._begun = False

    @property
    def route(self) -> str:
        """As the exchange's own."""
        return self._inner.route

    async def next(self) -> Sequence[event_pb2.Event]:
        """As the exchange's own."""
        try:
            batch = await self._inner.next()
        except InferenceError as exc:
            if self._begun:
                record = self._record()
                durable.fail(record, exc, now())
                await self._responses.finish_failed(self._turn, record)
            raise
        self._begun = True
        self._fold.feed(batch)
        if batch and batch[-1].HasField("completed"):
            record = self._record()
            record.completed_at = batch[-1].completed.stored_at = now()
            await self._responses.finish(self._turn, record)
        return batch

    def divert(self, take: Callable[[Sequence[event_pb2.Event]], bool]) -> None:
        """Nothing goes past `next`."""

    def close(self) -> None:
        """As the exchange's own."""
        self._inner.close()

    def _record(self) -> stored_pb2.StoredResponse:
        return finished(self._turn.own, self._fold.answer(self.answer_id, self.created))
