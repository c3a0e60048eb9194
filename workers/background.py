"""The background lane of a worker: takes responses in slots that interactive work leaves.

A job is claimed by compare-and-set on the response's record (R1); what it says goes into the
response's log. The worker decides on the next attempt itself, and holds no slot while it waits.
Order: stored response, terminal event, records, ack (R19).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import random
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

from broker import dispatch, durable, subjects
from broker.bus import Bus, BusError
from broker.bus.background import hear_cancelled, publish
from broker.bus.eventlog import EventLog, FencedError
from broker.bus.jobs import Jobs
from broker.bus.queue import ACK, Delivery, Publisher, Puller, nak
from broker.bus.recorder import Recorder
from broker.bus.responses import ConflictError, Kept, Responses
from broker.durable import Verdict
from broker.errors import InferenceError
from broker.settings import ProviderSettings
from broker.v1 import (
    delivery_service_pb2,
    event_pb2,
    generation_pb2,
    job_pb2,
    record_pb2,
    stored_pb2,
)
from workers.attempt import Attempt
from workers.fetch import Fetcher
from workers.keys import Keys
from workers.logsession import CREDIT, LogSession
from workers.provider import Provider
from workers.upstream import Upstream

_log = logging.getLogger(__name__)

# Of the slots, this share is left to interactive work whatever waits here.
_RESERVE = 8
# A job that found no room comes again after this long, to any worker.
_ROOM_S = 0.25
# One that could not be run because NATS was away.
_AWAY_S = 1.0
# An outage of NATS that a running response sits out.
PATIENCE_S = 60.0

_T = TypeVar("_T")
_Response = Kept[stored_pb2.StoredResponse]


class Host(Protocol):
    """What the lane shares with the interactive one."""

    @property
    def slots(self) -> int: ...

    @property
    def busy(self) -> int:
        """Slots in use, of either lane."""

    @property
    def draining(self) -> bool: ...

    def occupy(self, work: Coroutine[None, None, None], name: str) -> asyncio.Task[None]:
        """Run `work` in a slot."""

    def alone(self) -> contextlib.AbstractAsyncContextManager[None]:
        """From inside a slot: wait until nothing else runs, and keep it so (R6)."""

    @property
    def reserved(self) -> bool:
        """Whether somebody runs alone."""

    def hold(self, reply: str) -> None:
        """Keep the lease of a delivery until it is answered."""

    def answer(self, reply: str, answer: bytes) -> None:
        """Settle a delivery."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What an attempt is made with."""

    provider: Provider
    upstream: Upstream
    keys: Keys
    fetcher: Fetcher
    publisher: Publisher
    recorder: Recorder
    limits: delivery_service_pb2.TimeLimits


class _Leave(Exception):  # noqa: N818
    """Nothing more is to be done here; the argument is the answer to the delivery."""


class Background:
    """See the module."""

    def __init__(
        self, bus: Bus, settings: ProviderSettings, worker: str, host: Host, tools: Tools
    ) -> None:
        self._bus = bus
        self._settings = settings
        self._worker = worker
        self._host = host
        self._tools = tools
        self._stored = Responses(bus)
        self._log = EventLog(bus, self._stored.blobs)
        self._jobs = Jobs(bus)
        self._running: dict[str, asyncio.Task[None]] = {}
        self._cancelled: set[str] = set()
        self._stop_hearing: Callable[[], Awaitable[None]] | None = None
        lane = subjects.BACKGROUND
        self._puller = Puller(
            bus,
            subjects.LANES[lane],
            subjects.consumer(lane, settings.name, settings.pool),
            self._delivered,
            self.pull,
        )

    async def start(self) -> None:
        """Listen for cancelled responses; `pull` asks for jobs."""
        await self._puller.start()
        self._stop_hearing = await hear_cancelled(
            self._bus, self._settings.name, self._settings.pool, self._cancel
        )

    async def close(self) -> None:
        """Take no more."""
        await self._puller.close()
        if self._stop_hearing is not None:
            await self._stop_hearing()
            self._stop_hearing = None

    def wanted(self) -> int:
        """Jobs to ask for: none while the pull that stands has plenty of credit left."""
        if self._host.draining or self._host.reserved:
            return 0
        standing = self._puller.credits
        free = self._room() - standing
        return free if free > 0 and (free * 4 >= self._host.slots or standing < free) else 0

    def pull(self) -> None:
        """Ask for as many jobs as may run here now."""
        if wanted := self.wanted():
            self._puller.pull(wanted)

    def _room(self) -> int:
        return self._host.slots - self._host.slots // _RESERVE - self._host.busy

    def _delivered(self, delivery: Delivery) -> None:
        self._host.hold(delivery.reply)
        if self._host.draining or self._host.reserved or self._room() <= 0:
            self._host.answer(delivery.reply, nak(0.0 if self._host.draining else _ROOM_S))
            return
        job = job_pb2.Job.FromString(delivery.data)
        work = self._run(job, delivery)
        self._running[job.request_id] = self._host.occupy(work, f"background {job.request_id}")

    def _cancel(self, response_id: str) -> None:
        task = self._running.get(response_id)
        if task is not None:
            self._cancelled.add(response_id)
            task.cancel()

    # One job.

    async def _run(self, job: job_pb2.Job, delivery: Delivery) -> None:
        answer = nak(_AWAY_S)
        try:
            answer = await self._serve(job, again=delivery.deliveries > 1)
        except BusError as exc:
            _log.warning("background response %s: %s", job.request_id, exc)
        except asyncio.CancelledError:
            if job.request_id in self._cancelled:
                answer = ACK
            elif self._host.draining:
                answer = nak(0.0)
            else:
                raise
        finally:
            self._cancelled.discard(job.request_id)
            if self._running.get(job.request_id) is asyncio.current_task():
                del self._running[job.request_id]
            self._host.answer(delivery.reply, answer)

    async def _serve(self, job: job_pb2.Job, *, again: bool) -> bytes:
        """Do what the job and its record ask for; returns the answer to the delivery."""
        kept = await self._stored.responses.get(job.tenant, job.request_id, whole=False)
        if kept is None:
            return ACK  # deleted
        verdict = durable.judge(kept.record, job, again=again)
        if verdict is Verdict.SUPERSEDED:
            return ACK
        if verdict is Verdict.FINISHED:
            return await self._tidy(kept)
        if verdict is Verdict.POISON:
            return await self._bury(job, kept)
        if verdict is Verdict.RUN:
            return await self._claimed(job, kept, alone=False)
        async with self._host.alone():
            return await self._claimed(job, kept, alone=True)

    async def _claimed(self, job: job_pb2.Job, kept: _Response, *, alone: bool) -> bytes:
        durable.claim(kept.record, job, self._worker, alone=alone)
        try:
            await self._stored.responses.update(kept)
        except ConflictError:
            return nak(_ROOM_S)  # watched, cancelled, deleted or claimed: look again
        job.attempt = kept.record.attempt
        job.losses = kept.record.claim.losses
        run = _Run(self, job, kept)
        try:
            return await run.run()
        finally:
            run.session.close()

    async def _bury(self, job: job_pb2.Job, kept: _Response) -> bytes:
        """A job that killed the worker it ran on alone goes to the dead letters (R6)."""
        lost = durable.losses(kept.record, job)
        job.attempt = kept.record.attempt
        route = job.route
        await self._jobs.bury(
            subjects.BACKGROUND,
            route.provider,
            route.pool,
            job.SerializeToString(),
            f"worker lost {lost} times",
        )
        plan = dispatch.Plan(durable.plan_of(job).targets, losses=lost - 1)
        step = dispatch.after_loss(plan, shown=False, resumable=False, alone=True)
        assert isinstance(step, dispatch.GiveUp)  # noqa: S101  # alone: there is no other step
        last = await self._log.last(job.request_id)
        return await self.finish(job, last, partial(_fail, error=step.error))

    # What runs call.

    async def finish(
        self, job: job_pb2.Job, last: int, edit: Callable[[stored_pb2.StoredResponse], None]
    ) -> bytes:
        """Store what became of the response, then do what follows from it."""

        def end(record: stored_pb2.StoredResponse) -> bool:
            over = record.status in durable.FINAL
            if over and record.attempt == job.attempt and record.HasField("answer"):
                return False  # stored before, and the answer to that was lost
            if over or record.attempt > job.attempt:
                raise _Leave
            edit(record)
            return True

        try:
            store = self._stored.responses
            change = partial(store.change, job.tenant, job.request_id, end, whole=True)
            record = await _patiently(change)
        except _Leave:
            return ACK
        if record is None:
            return ACK
        return await self._settle(record, last)

    async def _tidy(self, kept: _Response) -> bytes:
        """The response is over: what its worker left undone is done, all of it idempotent."""
        record = kept.record
        if record.status == stored_pb2.RESPONSE_STATUS_CANCELLED:
            return ACK
        whole = await self._stored.responses.get(record.tenant, record.id)
        if whole is None:
            return ACK
        events, last = await self._log.read(record.id, record.log_from)
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
            conversations = self._stored.conversations
            await _patiently(partial(conversations.change, record.tenant, name, add, whole=True))

    async def append(self, response_id: str, logged: stored_pb2.LoggedEvents, last: int) -> int:
        """Add to a log, sitting out an outage of NATS."""
        return await self._log.append(
            self._tools.publisher, response_id, logged, last=last, patience_s=PATIENCE_S
        )

    async def _charge(self, record: stored_pb2.StoredResponse) -> None:
        """The one charge of a completed response; whoever writes it again changes nothing."""
        stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        answer, platform = record.answer, record.request.platform
        self._tools.recorder.charge(
            record_pb2.Charge(
                request_id=record.id,
                attempt=record.attempt,
                tenant=record.tenant,
                route=record.route,
                answered_model=answer.model,
                usage=answer.usage,
                charged_at_ms=time.time_ns() // 1_000_000,
                tags=platform.tags,
                signature=platform.signature,
            ),
            partial(_done, stored),
        )
        await stored


class _Run:
    """One claimed attempt."""

    def __init__(self, lane: Background, job: job_pb2.Job, kept: _Response) -> None:
        self._lane = lane
        self._job = job
        self._kept = kept
        self._tools = lane._tools
        self._host = lane._host
        self._last = 0
        self.session = LogSession(self._append, [])

    async def run(self) -> bytes:
        """Make the attempt and settle it; returns the answer to the delivery."""
        job = self._job
        request = await self._request()
        if request is None:
            error = InferenceError("internal", "the body of the request is gone")
            return await self._give_up(error)
        logged = await self._open_log()
        self.session = session = LogSession(self._append, logged)
        if session.shown and not session.resumable:
            message = "the answer was interrupted, and what was shown cannot be resumed"
            return await self._give_up(InferenceError("worker_lost", message, phase="content"))
        attempt = Attempt(job, session, self._tools.provider, self._lane._worker)
        interrupted = await self._attempt(attempt, request)
        await self._record(attempt)
        if job.request_id in self._lane._cancelled:
            return ACK
        if interrupted:
            return await self._hand_back()
        if isinstance(session.broken, FencedError):
            return ACK  # cancelled, or another worker runs it
        if session.failure is not None:
            return await self._after_failure(session.failure)
        if session.completed is None:
            return nak(_AWAY_S)  # the log could not be written
        try:
            await session.flush()
        except FencedError:
            return ACK
        session.fold.feed([event_pb2.Event(completed=session.completed)])
        return await self._lane.finish(job, self._last, self._complete)

    async def _attempt(self, attempt: Attempt, request: generation_pb2.Request) -> bool:
        """Make the call; True when it was interrupted, for whatever reason."""
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a job runs in its own task")
        grant = delivery_service_pb2.Grant(
            remaining_ms=self._job.remaining_ms, credit_bytes=CREDIT, limits=self._tools.limits
        )
        session = self.session
        session.when_over(task.cancel)
        try:
            tools = self._tools
            await attempt.run(request, grant, tools.upstream, tools.keys, tools.fetcher)
            session.when_over(None)
            await asyncio.sleep(0)  # the session may have cancelled this task in its last word
        except asyncio.CancelledError:
            task.uncancel()
            over = session.broken is not None or session.failure is not None
            leaving = self._host.draining or self._job.request_id in self._lane._cancelled
            if not (over or leaving):
                raise
            return not over
        finally:
            session.when_over(None)
        return False

    async def _request(self) -> generation_pb2.Request | None:
        job = self._job
        if not job.HasField("body_reference"):
            return job.request
        data = await self._lane._stored.blobs.get(job.body_reference.object)
        if data is None or hashlib.sha256(data).digest() != job.body_reference.digest:
            return None
        return generation_pb2.Request.FromString(data)

    async def _open_log(self) -> list[event_pb2.Event]:
        """What was shown so far; from here on the log is closed to all earlier attempts."""
        record = self._kept.record
        if record.attempt == 1:
            return []
        fence = stored_pb2.LoggedEvents(attempt=record.attempt)
        while True:
            events, last = await self._lane._log.read(record.id, record.log_from)
            try:
                self._last = await self._lane.append(record.id, fence, last)
            except FencedError:
                continue
            return events

    async def _append(self, events: list[event_pb2.Event]) -> None:
        logged = stored_pb2.LoggedEvents(attempt=self._job.attempt, events=events)
        self._last = await self._lane.append(self._job.request_id, logged, self._last)

    def _record(self, attempt: Attempt) -> asyncio.Future[None]:
        """Leave the attempt's record; the result is there once it is stored (R16)."""
        stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if attempt.called:
            self._tools.recorder.attempt(attempt.record, partial(_done, stored))
        else:
            stored.set_result(None)
        return stored

    def _complete(self, record: stored_pb2.StoredResponse) -> None:
        answer = self.session.fold.answer(record.id, record.created_at)
        durable.complete(record, answer, _now())

    async def _give_up(self, error: InferenceError) -> bytes:
        return await self._lane.finish(self._job, self._last, partial(_fail, error=error))

    async def _after_failure(self, error: InferenceError) -> bytes:
        """The policy's next step: another attempt, now or later, or the end (R5)."""
        job, session = self._job, self.session
        now = await self._lane._stored.responses.get(job.tenant, job.request_id, whole=False)
        if now is None or now.record.status in durable.FINAL:
            return ACK
        if session.shown:
            try:
                await session.flush()
            except FencedError:
                return ACK
        plan = durable.plan_of(job)
        step = dispatch.after_failure(
            plan,
            error,
            # What nobody read may be taken back.
            shown=session.shown and now.record.watched,
            resumable=session.resumable,
            left_s=dispatch.PATIENCE_S + 1,
            jitter=random.random(),
        )
        if isinstance(step, dispatch.GiveUp):
            return await self._give_up(step.error)
        following = job_pb2.Job()
        following.CopyFrom(job)
        following.attempt += 1
        durable.put_plan(following, plan)
        await publish(
            self._tools.publisher,
            following,
            plan.target,
            delay_s=step.delay_s,
            patience_s=PATIENCE_S,
        )
        return ACK

    async def _hand_back(self) -> bytes:
        """This worker leaves: the next one goes on, and nobody counts it as a loss (R15)."""
        with contextlib.suppress(BusError, FencedError, ConflictError):
            async with asyncio.timeout(1):
                await self.session.flush()
                self._kept.record.ClearField("claim")
                await self._lane._stored.responses.update(self._kept)
        return nak(0.0)


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
            await asyncio.sleep(_ROOM_S)


def _fail(record: stored_pb2.StoredResponse, error: InferenceError) -> None:
    durable.fail(record, error, _now())


def _now() -> int:
    return time.time_ns() // 1_000_000_000


def _done(stored: asyncio.Future[None]) -> None:
    if not stored.done():
        stored.set_result(None)
