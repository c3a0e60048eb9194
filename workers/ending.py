"""The end of a background response: stored, told, charged, in that order (R19).

All of it may be done twice, by two workers, and comes out once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

from broker import durable
from broker.bus import BusError
from broker.bus.eventlog import EventLog, FencedError
from broker.bus.queue import ACK, Publisher
from broker.bus.recorder import Recorder
from broker.bus.responses import Kept, Responses
from broker.called import called
from broker.catalog.bill import Bill
from broker.errors import InferenceError
from broker.keys import key_of
from broker.v1 import event_pb2, job_pb2, record_pb2, stored_pb2
from broker.wallclock import now, now_ms

_log = logging.getLogger(__name__)

# An outage of NATS that a running response sits out.
PATIENCE_S = 60.0
# Between two tries meanwhile.
_PAUSE_S = 0.25

_T = TypeVar("_T")


class _Leave(Exception):  # noqa: N818
    """Another attempt has ended the response, or is about to."""


class Ending:
    """See the module. `stored` and `log` are what it writes, for all who deal with responses."""

    def __init__(
        self,
        stored: Responses,
        log: EventLog,
        publisher: Publisher,
        recorder: Recorder,
        bill: Bill,
    ) -> None:
        self.stored = stored
        self.log = log
        self._publisher = publisher
        self._recorder = recorder
        self._bill = bill

    async def fail(self, job: job_pb2.Job, last: int, error: InferenceError) -> bytes:
        """The response failed for good; `last` and the result as for `finish`."""
        return await self.finish(job, last, partial(durable.fail, error=error, now=now()))

    async def finish(
        self, job: job_pb2.Job, last: int, edit: Callable[[stored_pb2.StoredResponse], None]
    ) -> bytes:
        """Store what became of the response, then do what follows from it.

        `last` is the sequence of the last entry of its log. Returns the answer to the delivery.
        """

        def end(record: stored_pb2.StoredResponse) -> bool:
            over = record.status in durable.FINAL
            if over and record.attempt == job.attempt and record.HasField("answer"):
                return False  # stored before, and the answer to that was lost
            if over or record.attempt > job.attempt:
                raise _Leave
            edit(record)
            return True

        try:
            store = self.stored.responses
            change = partial(store.change, job.owner, job.request_id, end, whole=True)
            record = await _patiently(change)
        except _Leave:
            return ACK
        if record is None:
            return ACK
        return await self._settle(record, last)

    async def tidy(self, kept: Kept[stored_pb2.StoredResponse]) -> bytes:
        """The response is over: what its worker left undone is done, all of it idempotent."""
        record = kept.record
        if record.status == stored_pb2.RESPONSE_STATUS_CANCELLED:
            return ACK
        whole = await self.stored.responses.get(record.owner, record.id)
        if whole is None:
            return ACK
        events, last = await self.log.read(record.id, record.log_from)
        if events and events[-1].WhichOneof("kind") in {"completed", "failed"}:
            last = -1
        return await self._settle(whole.record, last)

    async def _settle(self, record: stored_pb2.StoredResponse, last: int) -> bytes:
        """After a response was stored: its conversation, its terminal event, its charge."""
        if record.status != stored_pb2.RESPONSE_STATUS_FAILED:
            await self._converse(record)
        if last >= 0:
            ended = stored_pb2.LoggedEvents(
                attempt=record.attempt, events=[durable.terminal(record)]
            )
            with contextlib.suppress(FencedError):  # told already
                await self.append(record.id, ended, last)
        if record.status != stored_pb2.RESPONSE_STATUS_FAILED:
            await self._charge(record)
        return ACK

    async def _converse(self, record: stored_pb2.StoredResponse) -> None:
        name = record.request.generate.responses.conversation
        if name:
            add = partial(durable.converse, record=record)
            conversations = self.stored.conversations
            await _patiently(partial(conversations.change, record.owner, name, add, whole=True))

    async def append(self, response_id: str, logged: stored_pb2.LoggedEvents, last: int) -> int:
        """Add to a log, sitting out an outage of NATS."""
        return await self.log.append(
            self._publisher, response_id, logged, last=last, patience_s=PATIENCE_S
        )

    async def _charge(self, record: stored_pb2.StoredResponse) -> None:
        """The one charge of a completed response; whoever writes it again changes nothing."""
        answer, platform, route = record.answer, record.request.platform, record.route
        completed = event_pb2.Completed(usage=answer.usage, service_tier=answer.service_tier)
        charge = record_pb2.Charge(
            request_id=record.id,
            attempt=record.attempt,
            tenant=record.tenant,
            route=route,
            answered_model=answer.model,
            usage=answer.usage,
            charged_at_ms=now_ms(),
            tags=platform.tags,
            signature=platform.signature,
            cost=self._bill.cost(route.provider, route.model, completed),
            key=key_of(record.owner, record.tenant),
        )
        await called(partial(self._recorder.charge, charge))


async def _patiently(change: Callable[[], Awaitable[_T]]) -> _T:
    """Repeat a change while NATS is away, for as long as a response sits that out."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + PATIENCE_S
    while True:
        try:
            return await change()
        except BusError as exc:
            if loop.time() > deadline:
                raise
            _log.warning("%s; trying again", exc)
            await asyncio.sleep(_PAUSE_S)
