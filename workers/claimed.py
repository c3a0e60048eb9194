"""One attempt at a background response that this worker has claimed, from its log to its end.

The worker decides on the next attempt itself, and holds no slot while it waits (R5).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
from collections.abc import Callable
from functools import partial

from broker import dispatch, durable
from broker.bus import BusError
from broker.bus.background import publish
from broker.bus.eventlog import FencedError
from broker.bus.queue import ACK, nak
from broker.bus.responses import ConflictError, Kept
from broker.called import called
from broker.errors import InferenceError
from broker.v1 import delivery_service_pb2, event_pb2, generation_pb2, job_pb2, stored_pb2
from broker.wallclock import now
from workers.attempt import Attempt
from workers.ending import PATIENCE_S, Ending
from workers.logsession import CREDIT, LogSession
from workers.seats import Seats
from workers.tools import Tools


class ClaimedAttempt:
    """See the module.

    `cancelled` says whether somebody cancelled the response, `draining` whether the worker leaves;
    the task is cancelled for both.
    """

    def __init__(
        self,
        job: job_pb2.Job,
        kept: Kept[stored_pb2.StoredResponse],
        tools: Tools,
        ending: Ending,
        seats: Seats,
        *,
        cancelled: Callable[[], bool],
        draining: Callable[[], bool],
    ) -> None:
        self._job = job
        self._kept = kept
        self._tools = tools
        self._ending = ending
        self._seats = seats
        self._cancelled = cancelled
        self._draining = draining
        self._last = 0
        self.session = LogSession(self._append, [])

    async def run(self) -> bytes:
        """Make the attempt and settle it; returns the answer to the delivery.

        Raises `BusError` where NATS is away for too long, `FencedError` where another runs it now.
        """
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
        tools = self._tools
        attempt = Attempt(
            job, session, tools.provider, tools.worker, self._seats, standstill=tools.standstill
        )
        interrupted = await self._attempt(attempt, request)
        if attempt.called:
            await called(partial(tools.recorder.attempt, attempt.record))  # before the ack (R16)
        if self._cancelled():
            return ACK
        if interrupted:
            return await self._hand_back()
        if isinstance(session.broken, FencedError):
            raise session.broken  # cancelled, or another worker runs it
        if session.failure is not None:
            return await self._after_failure(session.failure)
        if session.completed is None:
            raise session.broken or BusError("the log could not be written")
        await session.flush()
        session.fold.feed([event_pb2.Event(completed=session.completed)])
        return await self._ending.finish(job, self._last, self._complete)

    async def _attempt(self, attempt: Attempt, request: generation_pb2.Request) -> bool:
        """Make the call; True when it was interrupted, for whatever reason."""
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a job runs in its own task")
        grant = delivery_service_pb2.Grant(
            remaining_ms=self._job.remaining_ms,
            credit_bytes=CREDIT,
            limits=self._tools.time_limits(self._job.route.model),
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
            leaving = self._draining() or self._cancelled()
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
        data = await self._ending.stored.blobs.get(job.body_reference.object)
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
            events, last = await self._ending.log.read(record.id, record.log_from)
            try:
                self._last = await self._ending.append(record.id, fence, last)
            except FencedError:
                continue
            return events

    async def _append(self, events: list[event_pb2.Event]) -> None:
        logged = stored_pb2.LoggedEvents(attempt=self._job.attempt, events=events)
        self._last = await self._ending.append(self._job.request_id, logged, self._last)

    def _complete(self, record: stored_pb2.StoredResponse) -> None:
        answer = self.session.fold.answer(record.id, record.created_at)
        durable.complete(record, answer, now())

    async def _give_up(self, error: InferenceError) -> bytes:
        return await self._ending.fail(self._job, self._last, error)

    async def _after_failure(self, error: InferenceError) -> bytes:
        """The policy's next step: another attempt, now or later, or the end (R5)."""
        job, session = self._job, self.session
        stored = await self._ending.stored.responses.get(job.owner, job.request_id, whole=False)
        if stored is None or stored.record.status in durable.FINAL:
            return ACK
        if session.shown:
            await session.flush()
        plan = durable.plan_of(job)
        step = dispatch.after_failure(
            plan,
            error,
            # What nobody read may be taken back.
            shown=session.shown and stored.record.watched,
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
                durable.survived(self._kept.record, self._tools.worker, self._job.attempt)
                await self._ending.stored.responses.update(self._kept)
        return nak(0.0)
