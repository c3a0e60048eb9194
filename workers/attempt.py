"""One attempt is one upstream call: the granted job in, hub events out, an attempt record left.

Where a provider gives one answer a call and several are asked for, or takes fewer inputs a call
than there are, it is several calls; the record says how many, and counts what they used together.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from dataclasses import dataclass, replace
from operator import attrgetter

from broker import operations
from broker.errors import InferenceError
from broker.v1 import delivery_service_pb2, event_pb2, generation_pb2, job_pb2, record_pb2
from broker.wallclock import now_ms
from workers.caller import Opens
from workers.calls import Calls, Send
from workers.delivery import EdgeLost
from workers.emulation import AnyPlan, Plan, Prompts, Split, Stepped, plan_of, total
from workers.estimate import counted
from workers.failures import Limits
from workers.fetch import Fetcher
from workers.flow import Session, flow, read_tail
from workers.idle import Idle
from workers.keys import Keys, Turn
from workers.provider import Call, Detached, Dialect, Provider, Unreadable
from workers.seats import Seats
from workers.standstill import Standstill
from workers.state import own_state
from workers.upload import Attachments, inlined, none

_log = logging.getLogger(__name__)

# Reasons that this process gives itself when a time has passed, and which one.
_TIME_LIMITS = {
    "connect_timeout": attrgetter("connect_s"),
    "first_token_timeout": attrgetter("first_byte_s"),
    "stalled": attrgetter("stall_s"),
}
# An error body is only read this far.
_MAX_ERROR_BODY = 256 << 10
# What is our fault where the key is ours, and the caller's where it is the caller's.
_CALLERS_FAULT = {
    "upstream_credentials": "invalid_provider_key",
    "upstream_quota": "insufficient_quota",
}


@dataclass(slots=True)
class _Line:
    """What the calls of an attempt have in common."""

    dialect: Dialect
    upstream: Opens
    limits: Limits
    fetcher: Fetcher
    attachments: Attachments
    # An answer has a last word, without which it is not whole. Sound and pictures have none.
    named_end: bool


class Attempt:
    """Runs `job` on `session`; `record` is complete when `run` returns or is cancelled."""

    def __init__(
        self,
        job: job_pb2.Job,
        session: Session,
        provider: Provider,
        worker: str,
        seats: Seats | None = None,
        *,
        standstill: Standstill | None = None,
    ) -> None:
        self._job = job
        self._standstill = standstill
        self._seats = seats or Seats()
        self._session = session
        self._provider = provider
        self._begun = time.monotonic()
        self._limits = Limits()
        # By the monotonic clock.
        self._ends = math.inf
        self._turn: Turn
        self._content = self._completed = False
        self._dropped: tuple[str, ...] = ()
        self.called = False
        self.record = record_pb2.AttemptRecord(
            request_id=job.request_id,
            attempt=job.attempt,
            tenant=job.tenant,
            route=job.route,
            worker=worker,
            started_at_ms=now_ms(),
            outcome=record_pb2.OUTCOME_CANCELLED,
        )

    async def run(
        self,
        request: generation_pb2.Request,
        grant: delivery_service_pb2.Grant,
        upstream: Opens,
        keys: Keys,
        fetcher: Fetcher,
        *,
        attachments: Attachments = none,
    ) -> None:
        """Make the call. Never raises for what a provider does: that is the `failed` event.

        It is made with the caller's own key, if the grant has one, else with one of `keys`.
        `attachments` opens the files of the request.
        """
        seats, now = self._seats, time.monotonic()
        chosen = (seats.key,) if seats.chosen else ()
        turn = self._turn = Turn(keys, self._job, grant.credential, now, chosen=chosen)
        try:
            if not grant.credential:
                seats.check()
            await self._answer(request, grant, upstream, fetcher, attachments)
            turn.worked()
        except InferenceError as exc:
            error = self._excused(exc)
            if exc is not seats.refusal:
                turn.failed(error, time.monotonic())
            self._failed(error, callers_key=bool(grant.credential))
        except (asyncio.CancelledError, EdgeLost):
            raise
        except Exception:  # noqa: BLE001
            # A bug in a dialect fails its one request, not the worker.
            _log.exception("attempt %s.%d", self._job.request_id, self._job.attempt)
            error = InferenceError("internal", "the worker failed; the error is logged there")
            self._failed(error, callers_key=False)
        finally:
            seats.release()
            usage = self.record.usage
            seats.settle(usage.input_tokens + usage.output_tokens + usage.reasoning_tokens)
            self.record.duration_ms = self._elapsed_ms()

    async def _answer(
        self,
        request: generation_pb2.Request,
        grant: delivery_service_pb2.Grant,
        upstream: Opens,
        fetcher: Fetcher,
        attachments: Attachments,
    ) -> None:
        model, operation = self._job.route.model, operations.name(request)
        request = own_state(request, self._provider.name)
        self._provider = self._provider.serving(request, model)
        if operation == operations.COUNT_TOKENS and operation not in self._provider.operations:
            self._send(counted(request))
            return
        plan = plan_of(request, model, self._provider)
        if isinstance(plan, Prompts):
            operation = plan.operation
            self._provider = self._provider.serving(plan.asked[0], model)
        self._limits = _limits(grant, request)
        self._ends = self._begun + (self._limits.deadline_s or math.inf)
        line = _Line(
            self._provider.dialect_for(model, operation),
            upstream,
            self._limits,
            fetcher,
            attachments,
            request.HasField("generate") or request.HasField("complete"),
        )
        if plan is None:
            await self._call(line, request, self._send)
        else:
            await self._emulate(line, plan)

    async def _emulate(self, line: _Line, plan: AnyPlan) -> None:
        """Do around the dialect what the provider lacks."""
        decoders: list[Stepped] = []
        try:
            if isinstance(plan, Plan) and plan.calls == 1:
                await self._call(line, plan.request, self._send, plan, decoders)
            else:
                await self._call_often(line, plan, decoders)
        finally:
            used = [decoder.usage for decoder in decoders if decoder.usage is not None]
            if used and self.record.outcome != record_pb2.OUTCOME_COMPLETED:
                # What came of these calls is no answer, and is billed all the same.
                self.record.usage.CopyFrom(total(used))

    async def _call_often(self, line: _Line, plan: AnyPlan, decoders: list[Stepped]) -> None:
        """One answer of several calls."""
        if isinstance(plan, Plan):
            # What all calls need is fetched once.
            _, readable = await self._written(line, plan.request)
            plan = replace(plan, request=readable)

        async def call(request: generation_pb2.Request, send: Send) -> None:
            while True:
                key = self._turn.key
                try:
                    return await self._call(line, request, send, plan, decoders)
                except InferenceError as exc:
                    # The calls that went well are paid for.
                    again = isinstance(plan, Split)
                    if not (again and self._turn.another(key, exc, time.monotonic())):
                        raise

        await Calls(plan, call, self._send, self._ends).make()

    async def _written(
        self, line: _Line, request: generation_pb2.Request
    ) -> tuple[Call, generation_pb2.Request]:
        """The call for a request, and the request with what had to be fetched for it."""
        model = self._job.route.model
        try:
            return line.dialect.call(request, model, self._provider), request
        except Unreadable as exc:
            request = await line.fetcher.inline(request, exc)
        except Detached:
            request = await inlined(request, line.attachments)
        return line.dialect.call(request, model, self._provider), request

    async def _call(
        self,
        line: _Line,
        request: generation_pb2.Request,
        send: Send,
        plan: AnyPlan | None = None,
        decoders: list[Stepped] | None = None,
    ) -> None:
        steps = plan.steps() if plan is not None else ()
        call, request = await self._written(line, request)
        self._dropped = call.dropped
        left_s = self._ends - time.monotonic()
        with await self._seats.next(self._turn.key, own=self._turn.own, within_s=left_s) as seat:
            self.called = True
            self.record.upstream_calls += 1
            reply = await line.upstream.open(
                call,
                key=self._turn.secret or None,
                limits=line.limits,
                extra_headers=request.platform.extra_headers,
                attachments=line.attachments,
            )
            try:
                self.record.upstream_status = reply.status
                good = 200 <= reply.status < 300
                seat.heard(reply.headers, refused=not good)
                if not good:
                    body = await reply.read(_MAX_ERROR_BODY, cut=True)
                    raise line.dialect.error(reply.status, reply.headers, body)
                decoder = line.dialect.decoder(request, reply.headers)
                stepped = None
                if decoders is not None:
                    decoder = stepped = Stepped(decoder, steps)
                    decoders.append(stepped)
                await flow(
                    reply,
                    decoder,
                    send,
                    self._session,
                    Idle(line.limits, self._provider.name),
                    has_content=lambda: self._content,
                    named_end=line.named_end,
                )
                if stepped is None or stepped.usage is not None:
                    # Otherwise it was cut short, and the provider would go on.
                    await read_tail(reply)
            finally:
                await reply.aclose()

    def _send(self, events: list[event_pb2.Event]) -> bool:
        if not self._content:
            self._begin(events)
        last = events[-1]
        if last.HasField("completed"):
            self._completed = True
            if last.completed.model:
                self.record.answered_model = last.completed.model
            self.record.usage.CopyFrom(last.completed.usage)
            self.record.outcome = record_pb2.OUTCOME_COMPLETED
        self._session.send(events, last=self._completed)
        return self._completed

    def _begin(self, events: list[event_pb2.Event]) -> None:
        """The first events: who answers, and when."""
        record = self.record
        first = events[0]
        if first.HasField("started"):
            started = first.started
            started.provider = self._provider.name
            # Some formats do not say which model answered.
            started.model = started.model or self._job.route.model
            started.dropped_params.extend(self._dropped)
            record.answered_model = started.model
            record.upstream_id = started.upstream_id
            record.upstream_request_id = started.upstream_request_id
            if len(events) == 1:
                return
        self._content = True
        record.first_content_ms = max(1, self._elapsed_ms())

    def _excused(self, error: InferenceError) -> InferenceError:
        """What is told of a limit of time that ran out while this process stood still."""
        still_s = 0.0
        if self._standstill is not None and error.reason in _TIME_LIMITS:
            # One that was over before the limit began to run excuses nothing.
            limit_s = _TIME_LIMITS[error.reason](self._limits) or math.inf
            still_s = self._standstill.since(max(self._begun, time.monotonic() - limit_s))
        if not still_s:
            return error
        message = f"the worker stood still for {still_s:.1f} s, and its provider was not heard"
        return InferenceError("worker_lost", message, phase=error.phase)

    def _failed(self, error: InferenceError, *, callers_key: bool) -> None:
        if callers_key:
            error.reason = _CALLERS_FAULT.get(error.reason, error.reason)
        error.message = self._turn.hidden(error.message)
        self.record.outcome = record_pb2.OUTCOME_FAILED
        self.record.reason = error.reason
        if error.upstream_status:
            self.record.upstream_status = error.upstream_status
        self.record.upstream_request_id = error.upstream_request_id
        error.provider = self._provider.name
        error.model = self._job.route.model
        error.attempt = self._job.attempt
        error.phase = error.phase or ("content" if self._content else "connect")
        self._session.send([event_pb2.Event(failed=error.to_failure())], last=True)

    def _elapsed_ms(self) -> int:
        return int((time.monotonic() - self._begun) * 1000)


def _limits(grant: delivery_service_pb2.Grant, request: generation_pb2.Request) -> Limits:
    """A whole answer has no first token and no pauses: a share of its time is its limit.

    A streamed picture has none. Of what takes minutes only the first byte is waited for, and where
    tools may be called, since many a provider writes a call in silence behind its first word.
    """
    limits, streams = grant.limits, operations.streams(request)
    pauses = operations.pauses(request)
    first_ms = limits.first_token_ms if streams else limits.whole_ms
    return Limits(
        connect_s=limits.connect_ms / 1000,
        first_byte_s=0 if streams and request.HasField("image") else first_ms / 1000,
        stall_s=limits.stall_ms / 1000 if streams and not pauses else 0,
        first_token=not pauses and not request.generate.tools,
        deadline_s=min(grant.remaining_ms, limits.total_ms or grant.remaining_ms) / 1000,
    )
