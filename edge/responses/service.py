"""Stored responses for both front ends: kept, read, followed, cancelled, deleted.

What is not there and what is another owner's are the same: `not_found`.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from broker import dispatch, durable, items
from broker.bus import Bus, BusError
from broker.bus.background import publish, tell_cancelled
from broker.bus.eventlog import EventLog, FencedError
from broker.bus.layout import MAX_INLINE_BODY
from broker.bus.queue import Publisher
from broker.bus.responses import ConflictError, Responses
from broker.errors import InferenceError
from broker.keys import KeyRecord
from broker.routing import Decision
from broker.settings import Limits
from broker.v1 import event_pb2, generation_pb2, job_pb2, stored_pb2
from broker.wallclock import now
from edge import ids
from edge.claims import Named
from edge.hosted import HostedTools
from edge.responses import turn
from edge.responses.names import ResponseNames, deleted
from edge.responses.turn import Turn
from edge.store import told

# A follower that hears nothing looks at the record this often.
_LOOK_S = 5.0
# For how long NATS may be away: longer than it takes to elect a leader.
_PATIENCE_S = 10.0
_RETRY_S = 0.25

_log = logging.getLogger(__name__)


class Router(Protocol):
    """Knows where models are served."""

    async def decide(self, request: generation_pb2.Request) -> Decision:
        """The candidates, in order. Raises `InferenceError`."""


@dataclass(frozen=True, slots=True)
class Started:
    """A background response. `replayed`: it was there before."""

    record: stored_pb2.StoredResponse
    replayed: bool = False


class ResponseService:
    """See the module. Raises `InferenceError`."""

    def __init__(self, bus: Bus, router: Router, limits: Limits, tools: HostedTools) -> None:
        # Takes requests whose tools the broker runs.
        self.tools = tools
        self.stored = Responses(bus)
        self._names = ResponseNames(bus)
        self._bus = bus
        self._router = router
        self._limits = limits
        self._log = EventLog(bus, self.stored.blobs)
        self._publisher = Publisher(bus, timeout_s=2.0)

    async def start(self) -> None:
        """Listen for the answers of streams."""
        await self._publisher.start()

    async def close(self) -> None:
        """Stop."""
        await self._publisher.close()

    async def turn(self, request: generation_pb2.Request, key: KeyRecord) -> Turn:
        """The request with what it goes on from."""
        with told():
            limit = self._limits.max_body_bytes
            return await turn.load(self.stored, request, key, limit=limit)

    async def finish(self, asked: Turn, record: stored_pb2.StoredResponse) -> None:
        """Store a response that is over, where it is kept, before anybody is told so.

        Sits out a change of NATS' leader. Raises `InferenceError` when that takes too long.
        """
        asked.fill(record)
        if not asked.kept:
            return
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _PATIENCE_S
        with told():
            while True:
                try:
                    await self._store(record)
                except BusError:
                    if loop.time() > deadline:
                        raise
                    await asyncio.sleep(_RETRY_S)
                else:
                    return

    async def _store(self, record: stored_pb2.StoredResponse) -> None:
        with contextlib.suppress(ConflictError):  # it is ours: an earlier try was taken
            await self.stored.responses.create(record)
        name = record.request.generate.responses.conversation
        if name and record.status != stored_pb2.RESPONSE_STATUS_FAILED:
            add = partial(durable.converse, record=record)
            await self.stored.conversations.change(record.owner, name, add, whole=True)

    async def finish_failed(self, asked: Turn, record: stored_pb2.StoredResponse) -> None:
        """`finish` for one that failed while it was read: that it is not kept fails nothing."""
        try:
            await self.finish(asked, record)
        except InferenceError as exc:
            _log.warning("response %s failed and is not kept: %s", record.id, exc.message)

    async def get(self, owner: str, name: str) -> stored_pb2.StoredResponse:
        """The response of this id."""
        with told():
            kept = await self.stored.responses.get(owner, name)
        if kept is None:
            raise not_found(name)
        return kept.record

    async def get_log(self, owner: str, name: str) -> stored_pb2.StoredResponse:
        """The response of this id, which `follow` can stream."""
        record = await self.get(owner, name)
        if not record.background:
            message = "only responses that were created with background=true can be streamed again"
            raise InferenceError("invalid_request", message, param="stream")
        return record

    async def start_background(
        self,
        asked: Turn,
        *,
        own_provider_key: bool,
        watched: bool,
        named: Named | None = None,
    ) -> Started:
        """Accept a response that outlives its caller; `watched`: its stream is read at once.

        `named`: there is one of the name, which is returned in whatever state it is in.
        """
        with told():
            if named is not None:
                return await self._start_named(asked, named, own_provider_key, watched)
            plan = await self._plan(asked, own_provider_key)
            record = _queued(asked, ids.answer_id(asked.own), watched)
            await self.stored.responses.create(record)
            try:
                await self._queue(asked, record, plan)
            except BusError:
                with contextlib.suppress(BusError):
                    await self.stored.responses.delete(record.owner, record.id)
                raise
        return Started(record)

    async def _start_named(
        self, asked: Turn, named: Named, own_provider_key: bool, watched: bool
    ) -> Started:
        """Find the response of a name, or make what is missing of it."""
        while True:
            found = await self._names.find(named)
            if found.record is not None and (there := await self._there(found.record, named)):
                await self._names.settle(named, found)
                return Started(there, replayed=True)
            plan = await self._plan(asked, own_provider_key)
            taken = (
                found
                if found.record is not None
                else await self._names.take(named, found, ids.answer_id(asked.own))
            )
            if taken is not None and taken.record is not None:
                break
        record, replayed = _queued(asked, taken.record.answer_id, watched), False
        try:
            await self.stored.responses.create(record)
        except ConflictError:  # somebody else has got as far
            record, replayed = await self.get(named.owner, record.id), True
        # The same job however often, so it may be queued already; it is not if an edge was lost.
        await self._queue(asked, record, plan)
        await self._names.settle(named, taken)
        return Started(record, replayed)

    async def _there(self, name: stored_pb2.Once, named: Named) -> stored_pb2.StoredResponse | None:
        """The response that a name stands for; None where its job may be missing yet."""
        kept = await self.stored.responses.get(named.owner, name.answer_id)
        if name.done:
            if kept is None:
                raise deleted(named)
            return kept.record
        if kept is None or not (kept.record.attempt or kept.record.status in durable.FINAL):
            return None
        return kept.record

    async def _plan(self, asked: Turn, own_provider_key: bool) -> dispatch.Plan:
        """Who may answer it. Raises `InferenceError` where nobody can in the background."""
        if own_provider_key or asked.own.platform.use_custom_keys:
            message = "a background response cannot be run with a provider key of your own"
            raise InferenceError("invalid_request", message, param="background")
        await self.tools.check_background(asked.own)
        return dispatch.Plan((await self._router.decide(asked.own)).targets)

    async def _queue(
        self, asked: Turn, record: stored_pb2.StoredResponse, plan: dispatch.Plan
    ) -> None:
        job = await self._job(asked, record, plan)
        await publish(self._publisher, job, plan.target, patience_s=_PATIENCE_S)

    async def _job(
        self, asked: Turn, record: stored_pb2.StoredResponse, plan: dispatch.Plan
    ) -> job_pb2.Job:
        job = job_pb2.Job(
            request_id=record.id,
            attempt=1,
            tenant=record.tenant,
            owner=record.owner,
            remaining_ms=int(self._limits.background_timeout_s * 1000),
        )
        durable.put_plan(job, plan)
        body = generation_pb2.Request()
        body.CopyFrom(asked.whole)
        # Whoever asks, the log gets events as they come.
        body.generate.stream = True
        data = body.SerializeToString()
        if len(data) <= MAX_INLINE_BODY:
            job.request.CopyFrom(body)
        else:
            kept = await self.stored.blobs.put(record.id, data)
            job.body_reference.size = len(data)
            job.body_reference.digest = hashlib.sha256(data).digest()
            job.body_reference.object = kept.name
        return job

    async def follow(
        self, owner: str, name: str
    ) -> AsyncGenerator[list[event_pb2.Event] | stored_pb2.StoredResponse, None]:
        """Events of a background response from its first one on; last its record, complete."""

        def watch(record: stored_pb2.StoredResponse) -> bool:
            fresh = not (record.watched or record.status in durable.FINAL)
            record.watched |= fresh
            return fresh

        with told():
            record = await self.stored.responses.change(owner, name, watch)
            if record is None:
                raise not_found(name)
            log = self._log.follow(name, record.log_from)
            async with contextlib.aclosing(self._live(owner, name, log)) as live:
                async for events in live:
                    yield events
        yield await self.get(owner, name)

    async def _live(
        self, owner: str, name: str, log: AsyncGenerator[list[event_pb2.Event], None]
    ) -> AsyncGenerator[list[event_pb2.Event], None]:
        """What the log has, without its terminal event, until the response is over."""
        step: asyncio.Future[list[event_pb2.Event]] | None = None
        over = False
        try:
            while True:
                step = step or asyncio.ensure_future(anext(log))
                await asyncio.wait((step,), timeout=0.2 if over else _LOOK_S)
                if step.done():
                    try:
                        events = step.result()
                    except StopAsyncIteration:
                        return
                    step = None
                    if shown := [event for event in events if not _terminal(event)]:
                        yield shown
                    if len(shown) < len(events):
                        return
                elif over:
                    return  # whoever ended it was lost before the log said so
                else:
                    kept = await self.stored.responses.get(owner, name, whole=False)
                    if kept is None:
                        raise not_found(name)
                    over = kept.record.status in durable.FINAL
        finally:
            if step is not None:
                step.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await step
            await log.aclose()

    async def cancel(self, owner: str, name: str) -> stored_pb2.StoredResponse:
        """Cancel a background response; one that is over stays as it is."""
        changed = False

        def edit(record: stored_pb2.StoredResponse) -> bool:
            nonlocal changed
            if not record.background:
                message = "Cannot cancel a synchronous response."
                raise InferenceError("invalid_request", message, param="response_id")
            changed = durable.cancel(record, now())
            return changed

        with told():
            record = await self.stored.responses.change(owner, name, edit)
            if record is None:
                raise not_found(name)
            if changed:
                await self._stop(record)
        return await self.get(owner, name)

    async def _stop(self, record: stored_pb2.StoredResponse) -> None:
        """Close the log of a cancelled response, and tell its worker."""
        await tell_cancelled(self._bus, record.route, record.id)
        ended = stored_pb2.LoggedEvents(attempt=record.attempt, events=[durable.terminal(record)])
        while True:
            last = await self._log.last(record.id)
            try:
                await self._log.append(
                    self._publisher, record.id, ended, last=last, patience_s=_PATIENCE_S
                )
            except FencedError:
                continue
            return

    async def delete(self, owner: str, name: str) -> None:
        """Forget a response, its log and its large parts; one that runs is stopped."""
        with told():
            kept = await self.stored.responses.get(owner, name, whole=False)
            if kept is None or not await self.stored.responses.delete(owner, name):
                raise not_found(name)
            if kept.record.background:
                await tell_cancelled(self._bus, kept.record.route, name)
                await self._log.purge(name)


def _queued(asked: Turn, name: str, watched: bool) -> stored_pb2.StoredResponse:
    """The record of a background response before its first attempt."""
    record = stored_pb2.StoredResponse(
        id=name,
        created_at=now(),
        status=stored_pb2.RESPONSE_STATUS_QUEUED,
        request=asked.own,
        watched=watched,
    )
    asked.fill(record)
    items.name_messages(record.request.generate.messages, record.id)
    return record


def not_found(name: str) -> InferenceError:
    """No response of this caller has the id."""
    return InferenceError("not_found", f"Response with id '{name}' not found.")


def _terminal(event: event_pb2.Event) -> bool:
    return event.WhichOneof("kind") in {"completed", "failed"}
