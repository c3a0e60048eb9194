"""The background lane of a worker: takes responses in slots that interactive work leaves.

A job is claimed by compare-and-set on the response's record (R1); what it says goes into the
response's log.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial

from broker import dispatch, durable, subjects
from broker.bus import Bus, BusError
from broker.bus.background import hear_cancelled
from broker.bus.eventlog import EventLog, FencedError
from broker.bus.jobs import Jobs
from broker.bus.queue import ACK, Delivery, Puller, nak
from broker.bus.responses import ConflictError, Kept, Responses
from broker.durable import Verdict
from broker.settings import ProviderSettings
from broker.tasks import Tasks
from broker.v1 import job_pb2, stored_pb2
from workers.claimed import ClaimedAttempt
from workers.ending import Ending
from workers.gate import HandOn
from workers.seats import Seats
from workers.slots import Slots
from workers.tools import Tools

_log = logging.getLogger(__name__)

# A job that found no room comes again after this long, to any worker.
_ROOM_S = 0.25
# One that could not be run because NATS was away comes again after this long.
_AWAY_S = 1.0

_Response = Kept[stored_pb2.StoredResponse]


class _GaveUp(Exception):  # noqa: N818
    """A claim came to nothing, and not because its worker was lost."""

    def __init__(self, answer: bytes) -> None:
        super().__init__()
        # What its delivery is answered.
        self.answer = answer


class Background:
    """See the module."""

    def __init__(self, bus: Bus, settings: ProviderSettings, slots: Slots, tools: Tools) -> None:
        self._bus = bus
        self._settings = settings
        self._slots = slots
        self._tools = tools
        self._stored = Responses(bus)
        self._ending = Ending(
            self._stored,
            EventLog(bus, self._stored.blobs),
            tools.publisher,
            tools.recorder,
            tools.bill,
        )
        self._jobs = Jobs(bus)
        self._running: dict[str, asyncio.Task[None]] = {}
        self._cancelled: set[str] = set()
        self._givings_up = Tasks()
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
        await self._givings_up.close()

    def wanted(self) -> int:
        """Jobs to ask for now."""
        return self._slots.asks(subjects.BACKGROUND, self._puller.credits)

    def pull(self) -> None:
        """Ask for as many jobs as may run here now."""
        if wanted := self.wanted():
            self._puller.pull(wanted)

    def _delivered(self, delivery: Delivery) -> None:
        slots = self._slots
        if slots.draining or slots.reserved or slots.room(subjects.BACKGROUND) <= 0:
            slots.refuse(delivery.reply, _ROOM_S)
        elif (job := slots.take(delivery)) is not None:
            work = self._run(job, delivery)
            self._running[job.request_id] = slots.occupy(work, f"background {job.request_id}")

    def _cancel(self, response_id: str) -> None:
        task = self._running.get(response_id)
        if task is not None:
            self._cancelled.add(response_id)
            task.cancel()

    # One job.

    async def _run(self, job: job_pb2.Job, delivery: Delivery) -> None:
        answer: bytes | None = nak(_AWAY_S)
        seats: Seats | None = None
        try:
            seats = await self._tools.gate.admit(subjects.BACKGROUND, job)
            answer = await self._serve(job, seats, again=delivery.deliveries > 1)
        except _GaveUp as exc:
            answer = None
            self._givings_up.spawn(self._give_up(job, delivery.reply, exc.answer), "give up")
        except HandOn as exc:
            answer = nak(exc.delay_s)
        except BusError as exc:
            _log.warning("background response %s: %s", job.request_id, exc)
        except asyncio.CancelledError:
            if job.request_id in self._cancelled:
                answer = ACK
            elif self._slots.draining:
                answer = nak(0.0)
            else:
                raise
        finally:
            self._cancelled.discard(job.request_id)
            if self._running.get(job.request_id) is asyncio.current_task():
                del self._running[job.request_id]
            if seats is not None:
                seats.release()
            if answer is not None:
                self._slots.answer(delivery.reply, answer)

    async def _give_up(self, job: job_pb2.Job, reply: str, answer: bytes) -> None:
        """Leave a claim that came to nothing: its worker lives, and is no lost one (R6).

        The delivery is held until that is written down, so that it comes to nobody before.
        """
        survived = partial(durable.survived, worker=self._tools.worker, attempt=job.attempt)
        while True:
            try:
                await self._stored.responses.change(job.owner, job.request_id, survived)
            except BusError as exc:
                _log.warning("background response %s: %s; trying again", job.request_id, exc)
                await asyncio.sleep(_AWAY_S)
            else:
                break
        self._slots.answer(reply, answer)

    async def _serve(self, job: job_pb2.Job, seats: Seats, *, again: bool) -> bytes:
        """Do what the job and its record ask for; returns the answer to the delivery."""
        kept = await self._stored.responses.get(job.owner, job.request_id, whole=False)
        if kept is None:
            return ACK  # deleted
        verdict = durable.judge(kept.record, job, again=again, worker=self._tools.worker)
        if verdict is Verdict.SUPERSEDED:
            return ACK
        if verdict is Verdict.FINISHED:
            return await self._ending.tidy(kept)
        if verdict is Verdict.POISON:
            return await self._bury(job, kept)
        if verdict is Verdict.RUN:
            return await self._claimed(job, kept, seats, alone=False)
        seats.release()  # whoever runs still may need it
        async with self._slots.alone():
            return await self._claimed(job, kept, seats, alone=True)

    async def _claimed(
        self, job: job_pb2.Job, kept: _Response, seats: Seats, *, alone: bool
    ) -> bytes:
        durable.claim(kept.record, job, self._tools.worker, alone=alone)
        job.attempt = kept.record.attempt
        job.losses = kept.record.claim.losses
        try:
            await self._stored.responses.update(kept)
        except ConflictError:
            return nak(_ROOM_S)  # watched, cancelled, deleted or claimed: look again
        except BusError as exc:  # it may be written all the same
            raise _GaveUp(nak(_AWAY_S)) from exc
        attempt = ClaimedAttempt(
            job,
            kept,
            self._tools,
            self._ending,
            seats,
            cancelled=lambda: job.request_id in self._cancelled,
            draining=lambda: self._slots.draining,
        )
        try:
            return await attempt.run()
        except BusError as exc:
            _log.warning("background response %s: %s", job.request_id, exc)
            raise _GaveUp(nak(_AWAY_S)) from exc
        except FencedError as exc:
            raise _GaveUp(ACK) from exc
        finally:
            attempt.session.close()

    async def _bury(self, job: job_pb2.Job, kept: _Response) -> bytes:
        """A job that killed the worker it ran on alone goes to the dead letters (R6)."""
        lost = durable.losses(kept.record, job, self._tools.worker)
        job.attempt = kept.record.attempt
        route = job.route
        await self._jobs.bury(
            subjects.BACKGROUND,
            route.provider,
            route.pool,
            job,
            f"worker lost {lost} times",
        )
        plan = dispatch.Plan(durable.plan_of(job).targets, losses=lost - 1)
        step = dispatch.after_loss(plan, shown=False, resumable=False, alone=True)
        assert isinstance(step, dispatch.GiveUp)  # noqa: S101  # alone: there is no other step
        last = await self._ending.log.last(job.request_id)
        return await self._ending.fail(job, last, step.error)
