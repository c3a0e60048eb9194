"""One attempt at a line of a batch: its body in, one call, what became of it out.

Nobody reads along and nothing is shown before the end, so that any attempt may be thrown away.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable

from broker import dispatch, durable
from broker.batch import failures
from broker.errors import InferenceError
from broker.translate import lines
from broker.translate.form import Answer
from broker.v1 import batch_pb2, delivery_service_pb2, event_pb2, generation_pb2, job_pb2
from broker.wallclock import now
from workers.attempt import Attempt
from workers.caller import Opens
from workers.keys import Keys
from workers.seats import Seats
from workers.tools import Tools

# A line's answer is read as fast as it comes: it has to be in memory whole.
CREDIT = 1 << 40

# Models of which is known when they answered last.
_MOST_MODELS = 1000

ReadRange = Callable[[job_pb2.FileRange], Awaitable[bytes]]


class LineSession:
    """The session of an attempt at a line: collects what it says."""

    credit = CREDIT

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.completed: event_pb2.Completed | None = None
        self.failure: InferenceError | None = None

    def send(self, events: list[event_pb2.Event], *, last: bool = False) -> None:
        """Take events of the attempt."""
        final = events[-1]
        if final.HasField("failed"):
            self.failure = InferenceError.from_failure(final.failed)
            return
        self.answer.feed(events)
        if last:
            self.completed = final.completed

    async def wait_credit(self) -> None:
        """There is always enough."""


class LineAttempt:
    """See the module. `read_range` gives a line that was too large for its job."""

    def __init__(
        self, job: job_pb2.Job, tools: Tools, read_range: ReadRange, seats: Seats | None = None
    ) -> None:
        self._job = job
        self._seats = seats or Seats()
        self._tools = tools
        self._read_range = read_range
        self._attempt: Attempt | None = None
        self._begun = _clock()
        # Why the next attempt is due, where this one has failed.
        self.failure: InferenceError | None = None
        # Whether the call was one of a provider's own batch.
        self._native = False

    async def run(self) -> batch_pb2.LineResult | dispatch.Again:
        """Make the attempt: the line's result, or when its next attempt is due.

        That is in the job's plan then. Raises `BusError` while the line cannot be read.
        """
        line = self._job.line
        try:
            request = lines.read(line.endpoint, await self._body())
        except InferenceError as exc:
            return self.failed(exc)
        answer = lines.answer(line.endpoint, self._job.request_id, now(), request)
        session = LineSession(answer)
        await self._call(request, session)
        if session.failure is not None:
            return self._after_failure(request, session.failure)
        if session.completed is None:
            raise RuntimeError("an attempt ended without a last word")
        return self._answered(request, session.answer, session.completed)

    def record(self, stored: Callable[[], None]) -> None:
        """Leave the attempt's record; `stored` is called once it is there, or if there is none."""
        attempt = self._attempt
        if attempt is not None and attempt.called:
            self._tools.paces.took(attempt.record, time.monotonic())
            self._tools.recorder.attempt(attempt.record, stored)
        else:
            stored()

    def failed(self, error: InferenceError) -> batch_pb2.LineResult:
        """The result of a line that failed for good."""
        result = self.result()
        lines.fail(result, self._job.line.endpoint, error)
        return result

    def stopped(self, code: str, message: str) -> batch_pb2.LineResult:
        """The result of a line whose batch ended before it ran."""
        result = self.result()
        result.error.CopyFrom(batch_pb2.BatchError(code=code, message=message))
        return result

    def result(self) -> batch_pb2.LineResult:
        """A result without what became of the line."""
        job = self._job
        result = batch_pb2.LineResult(
            number=job.line.number,
            custom_id=job.line.custom_id,
            request_id=job.request_id.removeprefix("batch_"),
            route=job.route,
            attempt=job.attempt,
        )
        if self._attempt is not None:
            record = self._attempt.record
            result.answered_model = record.answered_model
            if record.HasField("usage"):
                result.usage.CopyFrom(record.usage)
        return result

    async def _body(self) -> bytes:
        line = self._job.line
        if line.HasField("range"):
            return lines.body_of(await self._read_range(line.range))
        return line.json

    async def _call(self, request: generation_pb2.Request, session: LineSession) -> None:
        await self._make(request, session, self._tools.upstream, self._tools.keys, self._seats)

    async def _make(
        self,
        request: generation_pb2.Request,
        session: LineSession,
        upstream: Opens,
        keys: Keys,
        seats: Seats,
    ) -> None:
        tools, job = self._tools, self._job
        grant = delivery_service_pb2.Grant(
            remaining_ms=job.remaining_ms or int(tools.limits.background_timeout_s * 1000),
            credit_bytes=CREDIT,
            limits=tools.time_limits(job.route.model),
        )
        attempt = self._attempt = Attempt(
            job, session, tools.provider, tools.worker, seats, standstill=tools.standstill
        )
        await attempt.run(request, grant, upstream, keys, tools.fetcher)

    def _answered(
        self, request: generation_pb2.Request, answer: Answer, completed: event_pb2.Completed
    ) -> batch_pb2.LineResult:
        result, route = self.result(), self._job.route
        if len(self._tools.answered) >= _MOST_MODELS:
            self._tools.answered.clear()
        self._tools.answered[route.model] = _clock()
        result.status = 200
        result.native = self._native
        result.json = lines.rendered(answer)
        cost = self._tools.bill.cost(route.provider, route.model, completed, batch=self._native)
        if cost is not None:
            result.cost.CopyFrom(cost)
        self._label(result, request)
        return result

    def _after_failure(
        self, request: generation_pb2.Request, error: InferenceError
    ) -> batch_pb2.LineResult | dispatch.Again:
        """The policy's next step (R5)."""
        plan = durable.plan_of(self._job)
        failed_last = self._begun - failures.waited_s(plan)
        step = failures.after_failure(
            plan,
            error,
            tries=self._tools.limits.batch_tries,
            others_answered=self._tools.answered.get(plan.target.model, -math.inf) > failed_last,
            jitter=random.random(),
        )
        if isinstance(step, dispatch.Again):
            self.failure = error
            durable.put_plan(self._job, plan)
            return step
        result = self.failed(step.error)
        self._label(result, request)
        return result

    @staticmethod
    def _label(result: batch_pb2.LineResult, request: generation_pb2.Request) -> None:
        platform = request.platform
        result.tags.extend(platform.tags)
        result.signature = platform.signature


def _clock() -> float:
    return asyncio.get_running_loop().time()
