"""One accepted request from admission to its last event, whatever happens to its attempts.

An exchange has one current attempt. Events of that attempt alone reach the caller; everything
else (lost workers, retries, resumed streams) is settled here and stays invisible, or ends in one
typed error.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence

from broker import dispatch
from broker.errors import InferenceError
from broker.keys import KeyRecord
from broker.resume import CONTENT
from broker.routing import Decision, Target
from broker.v1 import event_pb2, generation_pb2
from broker.wallclock import now
from edge import ids
from edge.attempt import Attempt, Session
from edge.host import Host
from edge.intake import Intake
from edge.shown import Shown
from edge.work import Work

# How long an attempt may wait in a queue when another candidate may be asked (R5).
QUEUE_PATIENCE_S = 2.0
_NO_KEYS: Mapping[str, str] = {}


class Exchange:
    """See the module. Made by `Engine.submit`; the consumer calls `next` and, finally, `close`."""

    def __init__(
        self,
        host: Host,
        request: generation_pb2.Request,
        key: KeyRecord,
        request_id: str,
        *,
        plan: dispatch.Plan,
        timeout_s: float,
        provider_keys: Mapping[str, str] = _NO_KEYS,
        attachments: Sequence[bytes | memoryview] = (),
    ) -> None:
        self.request_id = request_id
        self.alias = ""
        # How it was decided where it goes; in words, if there was a choice.
        self.decision: Decision | None = None
        self.route = ""
        self.answer_id = ids.answer_id(request)
        self.created = now()
        self.key = key
        self.key_id = key.id
        self.work = work = Work.of(request)
        resume = work.platform.resume == generation_pb2.RESUME_PREFILL
        self.shown = Shown(request.SerializeToString(), streams=work.streams, prefills=resume)
        self.plan = plan
        # The caller's own, by provider: for grants alone.
        self.provider_keys = provider_keys
        # Files that came with the request; workers fetch them.
        self.attachments = attachments
        self.attempt: Attempt | None = None
        self.launched = False
        self.done = False
        self._host = host
        self._loop = asyncio.get_running_loop()
        self.deadline = self._loop.time() + timeout_s
        self._intake = Intake(vectors=work.vectors)
        self._attempts = 0
        # Where it was launched: its place counts in that pool.
        self._place = plan.target
        # The first event of the present answer, if it has begun.
        self.started: event_pb2.Started | None = None
        self._ready: list[event_pb2.Event] = []
        # What may be handed out: held back until content or the end comes, so that a failure
        # before content is still a real status.
        self._open = False
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        # Until somebody diverts them, nobody takes batches but `next`.
        self._take: Callable[[Sequence[event_pb2.Event]], bool] = lambda _: False
        self._timer = self._loop.call_at(self.deadline, self._out_of_time)
        self._retry_timer: asyncio.TimerHandle | None = None

    # The consumer's side.

    async def next(self) -> Sequence[event_pb2.Event]:
        """The next events, at least one; empty after `completed`. Raises `InferenceError`."""
        while True:
            if self._ready and self._open:
                batch, self._ready = self._ready, []
                self.shown.taken = True
                self._intake.consumed(self.attempt)
                return batch
            if self._error is not None:
                raise self._error
            if self.done:
                return ()
            self._waiter = self._loop.create_future()
            await self._waiter

    def divert(self, take: Callable[[Sequence[event_pb2.Event]], bool]) -> None:
        """Offer what comes from now on to `take` first, at once and without waking a task.

        What it refuses (False), and the end of the answer, is for `next`.
        """
        self._take = take

    def close(self) -> None:
        """The consumer is done or gone: stop whatever still runs. Idempotent."""
        if not self.done:
            self._end(InferenceError("client_gone", "the caller has gone"), "cancelled")

    def cancel(self) -> None:
        """Cancelled from another connection: whoever reads is told."""
        if not self.done:
            error = InferenceError("client_gone", "the request was cancelled", code="cancelled")
            self._end(error, "cancelled")

    # The engine's side.

    def launch(self) -> None:
        """Publish the next attempt now."""
        if self._retry_timer is not None:
            self._retry_timer.cancel()  # its patience with the line
            self._retry_timer = None
        if self.done:
            return
        self.launched = True
        self._place = self.plan.target
        self.attempt = attempt = self._another(self._place)
        self._host.publish(self, attempt)
        # What was shown is of this model: another one could only contradict it (R4).
        if self.plan.has_next and not self.shown.any:
            self._retry_timer = self._loop.call_later(QUEUE_PATIENCE_S, self._leave_queue, attempt)

    def supersede(self, attempt: Attempt) -> Attempt:
        """The next attempt in place of one that could not be queued."""
        self.attempt = self._another(attempt.target)
        return self.attempt

    @property
    def raw(self) -> bytes:
        """What the present attempt asks, encoded."""
        return self.shown.asked

    @property
    def output_tokens(self) -> int:
        """The most it asks for; 0 = it does not say."""
        return self.work.output_tokens

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """What is queued or runs of it."""
        return () if self.attempt is None else (self.attempt,)

    def wants(self, attempt: Attempt) -> bool:
        """Whether an attempt is still needed."""
        return attempt is self.attempt and not self.done

    def current(self, number: int) -> Attempt | None:
        """The attempt of this number, if it is still needed."""
        return next((attempt for attempt in self.attempts if attempt.number == number), None)

    def remaining_ms(self) -> int:
        """Milliseconds to the deadline, at least 1."""
        return max(1, int((self.deadline - self._loop.time()) * 1000))

    def granted(self, attempt: Attempt, session: Session, *, alone: bool) -> None:
        """A worker runs the attempt from now on."""
        attempt.session = session
        attempt.alone = alone
        self._host.taken(attempt)
        if self._retry_timer is not None:
            self._retry_timer.cancel()
            self._retry_timer = None

    def on_events(self, attempt: Attempt, events: Iterable[event_pb2.Event], size: int) -> None:
        """Events of an attempt; `size` is what they take of its credit."""
        if attempt is not self.attempt or self.done:
            return
        self._intake.came(size)
        show, streams = self.shown.show, self.work.streams
        for event in events:
            kind = event.WhichOneof("kind") or ""
            if kind in CONTENT:
                try:
                    fresh = show(kind, event)
                except InferenceError as exc:
                    self._settle(dispatch.GiveUp(exc))
                    return
                if fresh is not None:
                    self._ready.append(fresh)
                    self._open = streams
            elif kind == "started":
                if self.started is None:
                    self.started = event.started
                    self._ready.append(event)
            elif kind == "completed":
                self._completed(attempt, event)
                return
            elif kind == "failed":
                self._failed(attempt, event.failed)
                return
            # Anything else is an event of a newer worker: not for this edge to understand.
        if not streams:
            # A whole answer is credited as it comes, up to a limit.
            if (error := self._intake.collected(size)) is not None:
                self._settle(dispatch.GiveUp(error))
            else:
                self._intake.consumed(attempt)
        elif not self._ready:
            # All of it was shown before: nobody will read it, and a long replay would starve.
            self._intake.consumed(self.attempt)
        elif self._open:
            self._hand_out()

    def lost(self, attempt: Attempt) -> None:
        """The attempt's worker died or froze (R3)."""
        if attempt is not self.attempt or self.done:
            return
        attempt.session = None
        self._host.withdraw(attempt)
        step = dispatch.after_loss(
            self.plan,
            shown=self.shown.any,
            resumable=self.shown.resumable,
            alone=attempt.alone,
        )
        if attempt.alone:
            self._host.dead_letter(self, attempt)
        self._settle(step)

    def handed_back(self, attempt: Attempt) -> None:
        """The worker drains and gives the attempt up: nobody's failure."""
        if attempt is not self.attempt or self.done:
            return
        running, attempt.session = attempt.session is not None, None
        self._host.withdraw(attempt)
        if not running:  # it lies with a worker that was lost before it could claim it
            self._settle(dispatch.Again(resume=self.shown.any))
            return
        step = dispatch.after_hand_back(
            self.plan,
            shown=self.shown.any,
            resumable=self.shown.resumable,
            left_s=self.deadline - self._loop.time(),
            jitter=self._host.jitter(),
        )
        self._settle(step)

    def refused(self, attempt: Attempt, error: InferenceError) -> None:
        """The queue did not take the attempt: the next candidate's may."""
        if attempt is self.attempt and not self.done:
            self._host.taken(attempt)
            self._settle(self._after_failure(error))

    # Inside.

    def _another(self, target: Target) -> Attempt:
        self._attempts += 1
        return Attempt(self._attempts, target, self._loop.time())

    def _hand_out(self) -> None:
        try:
            taken = self._take(self._ready)
        except Exception as exc:  # noqa: BLE001  the consumer's bug, and not the link's
            self._ready = []
            self._end(exc, "cancelled")
            return
        if taken:
            self._ready = []
            self._intake.consumed(self.attempt)
        else:
            self._wake()

    def _completed(self, attempt: Attempt, event: event_pb2.Event) -> None:
        try:
            self.shown.finish(event.completed.usage)
        except InferenceError as exc:
            self._settle(dispatch.GiveUp(exc))
            return
        if event.completed.model and self.started is not None:
            self.started.model = event.completed.model
        self._ready.append(event)
        self._open = True
        attempt.session = None
        self._host.charge(self, attempt, self.started, event.completed)
        self._end(None, "")

    def _failed(self, attempt: Attempt, failure: event_pb2.Failure) -> None:
        self._settle(self._after_failure(self._blame(attempt, failure)))

    def _blame(self, attempt: Attempt, failure: event_pb2.Failure) -> InferenceError:
        attempt.session = None
        error = InferenceError.from_failure(failure, attempt.target.provider, attempt.target.model)
        error.attempt = attempt.number
        self._host.failed(self, attempt, error)
        return error

    def _after_failure(self, error: InferenceError) -> dispatch.Step:
        step = dispatch.after_failure(
            self.plan,
            error,
            shown=self.shown.any,
            resumable=self.shown.resumable,
            left_s=self.deadline - self._loop.time(),
            jitter=self._host.jitter(),
            resting=self._host.resting(self, self.plan.target),
        )
        if isinstance(step, dispatch.GiveUp) and self.shown.give_up_prefill():
            # Why a continuation failed is nobody's to see: what was asked may still be answered.
            return dispatch.Again(resume=True)
        return step

    def _settle(self, step: dispatch.Step) -> None:
        if isinstance(step, dispatch.GiveUp):
            self._end(step.error, "superseded")
            return
        if step.resume:
            if how := self.shown.go_on(self.plan.target):
                self._tell(how)
        else:
            self._forget()
        self._intake.start_over()
        if self._retry_timer is not None:
            self._retry_timer.cancel()  # the old attempt's patience with its queue
        # No attempt runs while it waits, and late events of the old one find no taker.
        self.attempt = None
        if step.delay_s:
            self._retry_timer = self._loop.call_later(step.delay_s, self._try_again)
        else:
            self._go_on()

    def _try_again(self) -> None:
        """The wait is over: meanwhile others may have found out that it was in vain."""
        self._retry_timer = None
        resting = not self.shown.any and self._host.resting(self, self.plan.target)
        step = dispatch.after_wait(self.plan, resting=resting)
        if step is None:
            self._go_on()
        else:
            self._settle(step)

    def _go_on(self) -> None:
        """Publish the next attempt; in another pool when its turn comes there."""
        old, new = self._place, self.plan.target
        if self.launched and (old.provider, old.pool) == (new.provider, new.pool):
            self.launch()
            return
        launched, self.launched, self._place = self.launched, False, new
        self._host.move(self, old, new, launched=launched)
        if not self.launched and self.plan.has_next and not self.shown.any:
            self._retry_timer = self._loop.call_later(QUEUE_PATIENCE_S, self._leave_line)

    def _tell(self, what: str) -> None:
        """Add to how the answer came about."""
        self.route = f"{self.route}; {what}" if self.route else what

    def _forget(self) -> None:
        """The answer begins anew."""
        self.shown.forget()
        self.started = None
        self._ready = []
        self._open = False

    def _leave_line(self) -> None:
        """Its turn has not come at a candidate that is not the last."""
        self._retry_timer = None
        if not (self.launched or self.done):
            self._settle(dispatch.after_queueing(self.plan))

    def _leave_queue(self, attempt: Attempt) -> None:
        """It waited long enough here, and another candidate is left (R5)."""
        self._retry_timer = None
        if attempt is not self.attempt or attempt.session is not None or self.done:
            return
        self._host.withdraw(attempt)
        self._settle(dispatch.after_queueing(self.plan))

    def _out_of_time(self) -> None:
        running = any(attempt.session is not None for attempt in self.attempts)
        error = dispatch.out_of_time(self.plan, running=running, shown=self.shown.any)
        self._end(error, "deadline")

    def _end(self, error: Exception | None, kill_reason: str) -> None:
        """The one way out."""
        self.done = True
        self.attachments = ()
        self._error = error
        if error is not None:
            self._open = self.shown.any
        self._timer.cancel()
        if self._retry_timer is not None:
            self._retry_timer.cancel()
        if self.attempt is not None and error is not None:
            self._stop(self.attempt, kill_reason)
        self._host.ended(self)
        self._wake()

    def _stop(self, attempt: Attempt, reason: str) -> None:
        """Close its upstream call, or keep it from starting."""
        if attempt.session is not None:
            attempt.session.kill(reason)
            attempt.session = None
        else:
            self._host.withdraw(attempt)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
