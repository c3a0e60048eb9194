"""The batch lane of a worker: takes lines in the slots that nobody else wants.

A line has a slot once it may make its call, and not while its provider lets nothing more through.

The lease of a delivery is a line's claim, and that a result is written once makes a second one
impossible (R17). What does not run here is published as its next attempt, never handed back: so a
line that was delivered before was with a worker that is lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Iterable
from functools import partial

from broker import durable, subjects
from broker.batch.states import STOPPED
from broker.bus import Bus, BusError
from broker.bus.background import publish
from broker.bus.delays import Delays
from broker.bus.files import Files
from broker.bus.jobs import Jobs
from broker.bus.mirror import Mirror
from broker.bus.objects import GoneError
from broker.bus.outcome import Outcomes
from broker.bus.queue import ACK, Delivery, Puller
from broker.bus.responses import Blobs
from broker.called import called
from broker.dispatch import LOSSES_BEFORE_ALONE, Again
from broker.errors import InferenceError
from broker.settings import ProviderSettings
from broker.tasks import Tasks
from broker.v1 import batch_pb2, job_pb2
from workers.lineattempt import LineAttempt
from workers.native import Native
from workers.seats import Seats
from workers.slots import Slots
from workers.tools import Tools
from workers.waiting import Line, Waiting

_log = logging.getLogger(__name__)

# Workers that are lost with a line before it is put aside: the last two of them ran it alone (R6).
LOSSES_BEFORE_POISON = LOSSES_BEFORE_ALONE + 2
# Lines of a model that may wait here, however slow it is, as a part of the slots.
_PART_WAITING = 8
# A line that found no room here for so long is any worker's again.
_ROOM_S = 5.0
# Between two tries of what needs NATS while it is away.
_PAUSE_S = 0.5
# A next attempt is offered this long before somebody is told that it is not taken.
_PATIENCE_S = 5.0
# Lines too large for the queue that are in memory at a time.
_LARGE_AT_ONCE = 4
# How long a worker that leaves waits for what it began to be stored.
_FINISH_S = 3.0


class Batch:
    """See the module."""

    def __init__(self, bus: Bus, settings: ProviderSettings, slots: Slots, tools: Tools) -> None:
        self._slots = slots
        self._tools = tools
        self._jobs = Jobs(bus)
        self._outcomes = Outcomes(bus, tools.publisher, Blobs(bus))
        self._files = Files(bus)
        self._delays = Delays(bus)
        # Lines that are too large for their jobs and run now.
        self._large = 0
        self._native = Native(tools, self._outcomes, self._read_range)
        # What is stopped waits for nobody.
        self._stops = Mirror(bus, subjects.BATCHES, lambda *_: self._begin(), keys="stop.*")
        self._live = Mirror(bus, subjects.BATCHES, keys="live.*")
        # By attempt, until they are settled; those that wait for room in the order they came.
        self._lines: dict[str, Line] = {}
        self._waiting = Waiting(max(2, slots.count // _PART_WAITING))
        tools.gate.line_up(self._waiting.models, self._begin)
        self._passing_on = Tasks()
        self._now = asyncio.get_running_loop().time
        lane = subjects.BATCH
        self._puller = Puller(
            bus,
            subjects.LANES[lane],
            subjects.consumer(lane, settings.name, settings.pool),
            self._delivered,
            self.pull,
        )

    async def start(self) -> None:
        """Learn which batches are stopped; `pull` asks for lines."""
        await self._stops.start()
        await self._live.start()
        await self._puller.start()

    async def close(self) -> None:
        """Take no more, and pass on what waits."""
        await self._puller.close()
        self._pass_all_on(self._waiting.old(math.inf))

    async def finish(self) -> None:
        """Have stored what came of lines, after all slots are free."""
        deadline = self._now() + _FINISH_S
        while self._lines and self._now() < deadline:  # noqa: ASYNC110  # once in a process's life
            await asyncio.sleep(0.02)
        await self._outcomes.close()
        await self._passing_on.close()
        await self._stops.close()
        await self._live.close()

    def due(self) -> bool:
        """Whether `pull` may have something to do."""
        room = self._room()
        return room > 0 and (len(self._waiting) > 0 or self._wanted(room) > 0)

    def pull(self) -> None:
        """Begin what waits, and ask for as many lines as may run here now."""
        self._begin()
        if wanted := self._wanted(self._room()):
            self._puller.pull(wanted)

    def _wanted(self, room: int) -> int:
        # Where all is limited some wait for the next tick: others' lines may come behind them.
        if not self._tools.gate.open and 2 * len(self._waiting) >= self._slots.count:
            return 0
        return self._slots.asks(subjects.BATCH, self._puller.credits, room)

    def tick(self, seconds: float) -> None:
        """Pass on what waits for too long; called every so many seconds."""
        self._trim()
        self._waiting.tick(seconds)
        self._pass_all_on(self._waiting.old(self._now() - _ROOM_S))

    def _trim(self) -> None:
        """Have what cannot begin soon come again later: lines of other models may be behind it."""
        for line, delay_s in self._waiting.trim(self._now()):
            self._passing_on.spawn(self._pass_on(line, delay_s), "pass on")

    def _room(self) -> int:
        slots = self._slots
        if slots.draining or slots.reserved:
            return 0
        # While results cannot be stored, no more is begun.
        unsettled = 2 * slots.count - len(self._lines) + len(self._waiting)
        return min(slots.room(subjects.BATCH), unsettled)

    def _delivered(self, delivery: Delivery) -> None:
        job = self._slots.take(delivery)
        if job is None:
            return
        if not (job.HasField("line") or job.HasField("native")):
            _log.error("what is no line of a batch is dropped: %s", job.request_id)
            self._slots.answer(delivery.reply, ACK)
            return
        name = subjects.message_id(job.request_id, job.attempt)
        known = self._lines.get(name)
        if known is not None:  # its lease ran out, though it is here
            self._slots.swap(known.reply, delivery.reply)
            known.reply = delivery.reply
            return
        before = delivery.deliveries - 1
        again = before > 0 or job.attempt > 1 or job.line.maybe_done
        line = Line(job, delivery.reply, job.losses + before, again, self._now())
        self._lines[name] = line
        if self._slots.draining or self._in_danger(line):
            self._passing_on.spawn(self._pass_on(line), "pass on")
        else:
            self._waiting.add(line)
            self._begin()
            if len(self._waiting) > self._slots.count:
                self._trim()

    def _in_danger(self, line: Line) -> bool:
        """Whether it would be put aside for its wait here, if who runs alone takes the worker."""
        return self._slots.reserved and line.losses == LOSSES_BEFORE_POISON - 1

    def _begin(self) -> None:
        """Begin what has room: a slot, and the gate's word."""
        for line in self._waiting.heads():
            if self._room() <= 0:
                break
            if (seats := self._seats(line)) is not None:
                self._waiting.take(line)
                self._large += line.large
                self._slots.occupy(self._run(line, seats), line.job.request_id)

    def _seats(self, line: Line) -> Seats | None:
        """The right to make its call, if it makes one; None: not now."""
        if not line.needs_seat or self._stopped(line.job.line.batch_id):
            return Seats()
        if line.large and self._large >= _LARGE_AT_ONCE:
            return None
        return self._tools.gate.line_seats(line.job)

    def _stopped(self, batch: str) -> bytes | None:
        """Why a batch is stopped, if it is."""
        return self._stops.entries.get(subjects.stop_key(batch))

    # One line.

    async def _run(self, line: Line, seats: Seats) -> None:
        try:
            while True:
                try:
                    await self._serve(line, seats)
                except BusError as exc:
                    _log.warning("line %s: %s; trying again", line.job.request_id, exc)
                    await asyncio.sleep(_PAUSE_S)
                else:
                    return
        except asyncio.CancelledError:
            if not self._slots.draining:
                raise
            await self._pass_on(line)
        except Exception:
            # Its lease runs out, and what no worker can deal with counts as lost.
            self._forget(line)
            raise
        finally:
            seats.release()
            self._large -= line.large

    async def _serve(self, line: Line, seats: Seats) -> None:
        """Do what the line asks for. Raises `BusError` where nothing was done."""
        job = line.job
        if job.HasField("native"):
            await self._hand_over(line)
            return
        batch, number = job.line.batch_id, job.line.number
        if line.again and await self._outcomes.exists(batch, number):
            self._settle(line)
            return
        job.losses = line.losses
        attempt = LineAttempt(job, self._tools, self._read_range, seats)
        code = self._stopped(batch)
        if code is not None:
            word = code.decode()
            result = attempt.stopped(word, STOPPED.get(word, "The batch was stopped."))
            await self._outcomes.write(batch, result, partial(self._settle, line))
        elif line.losses >= LOSSES_BEFORE_POISON:
            await self._bury(line, attempt)
        elif self._in_danger(line):
            await self._pass_on(line)
        elif line.losses >= LOSSES_BEFORE_ALONE:
            seats.release()  # whoever runs still may need it
            async with self._slots.alone():
                await asyncio.gather(*map(self._pass_on, self._waiting.old(math.inf)))
                await self._attempt(line, attempt)
        else:
            await self._attempt(line, attempt)

    async def _hand_over(self, line: Line) -> None:
        """Do the next step of lines that their provider's own batch API takes."""
        job, batch = line.job, line.job.native.batch_id
        code = (self._stopped(batch) or b"").decode()
        # What worker after worker is lost with goes on line by line.
        live = subjects.live_key(batch) in self._live.entries or line.losses >= LOSSES_BEFORE_POISON
        step = None
        try:
            step = await self._native.step(job, again=line.losses > 0, stop=code, live=live)
        except BusError:
            raise
        except InferenceError as exc:
            # What has no line any more is found by whoever runs the batch.
            _log.warning("%s: %s", job.request_id, exc)
        except Exception:  # noqa: BLE001
            _log.exception("%s goes on without its provider's batch", job.request_id)
            await self._native.without(job, stop=code)
        if step is not None:
            job.losses = 0
            await self._insist(job, step)
        self._settle(line)

    async def _attempt(self, line: Line, attempt: LineAttempt) -> None:
        job = line.job
        try:
            outcome = await attempt.run()
        except (BusError, asyncio.CancelledError):
            attempt.record(_nothing)
            raise
        except Exception:  # noqa: BLE001
            # A bug in a translation fails its one line.
            _log.exception("line %s", job.request_id)
            message = "the worker failed; the error is logged there"
            outcome = attempt.failed(InferenceError("internal", message))
        done = _Both(partial(self._settle, line))
        attempt.record(done)
        if isinstance(outcome, batch_pb2.LineResult):
            await self._outcomes.write(job.line.batch_id, outcome, done)
        else:
            if attempt.failure is not None:
                await self._delays.tell(job.line.batch_id, job.route, attempt.failure)
            await self._insist(job, outcome)
            done()

    async def _insist(self, job: job_pb2.Job, step: Again) -> None:
        """Publish the next attempt, however long that takes."""
        while True:
            try:
                return await self._publish_next(job, step, _PATIENCE_S)
            except BusError as exc:
                _log.warning("line %s: %s; trying again", job.request_id, exc)
                await asyncio.sleep(_PAUSE_S)

    async def _publish_next(self, job: job_pb2.Job, step: Again, patience_s: float) -> None:
        following = job_pb2.Job()
        following.CopyFrom(job)
        following.attempt += 1
        await publish(
            self._tools.publisher,
            following,
            durable.plan_of(following).target,
            lane=subjects.BATCH,
            delay_s=step.delay_s,
            patience_s=patience_s,
        )

    def _pass_all_on(self, lines: Iterable[Line]) -> None:
        for line in lines:
            self._passing_on.spawn(self._pass_on(line), "pass on")

    async def _pass_on(self, line: Line, delay_s: float = 0.0) -> None:
        """Make the line any worker's, as its next attempt; where that fails it stays here."""
        line.job.losses = line.losses
        try:
            await self._publish_next(line.job, Again(delay_s), 1.0)
        except BusError as exc:
            _log.warning("line %s: %s", line.job.request_id, exc)
            if not self._slots.draining:
                line.since = self._now()
                self._waiting.add(line)
        except Exception:
            self._forget(line)  # as in `_run`
            raise
        else:
            self._settle(line)

    async def _bury(self, line: Line, attempt: LineAttempt) -> None:
        """A line that was lost alone is put aside, its author told first (R6)."""
        job, route = line.job, line.job.route
        why = f"{line.losses} workers were lost while they ran this line"
        error = InferenceError("poison", f"{why}; it was put aside as a dead letter")
        await called(partial(self._outcomes.write, job.line.batch_id, attempt.failed(error)))
        await self._jobs.bury(subjects.BATCH, route.provider, route.pool, job, why)
        self._settle(line)

    def _forget(self, line: Line) -> None:
        self._lines.pop(subjects.message_id(line.job.request_id, line.job.attempt), None)
        self._slots.let_go(line.reply)

    def _settle(self, line: Line) -> None:
        self._slots.answer(line.reply, ACK)
        self._forget(line)
        if len(self._lines) > self._slots.count:  # no more is begun while too many are not stored
            self._slots.changed()

    async def _read_range(self, place: job_pb2.FileRange) -> bytes:
        record = await self._files.get(place.owner, place.file_id)
        if record is None:
            raise _gone()
        end = place.offset + place.size
        try:
            async with contextlib.aclosing(self._files.read(record, place.offset, end)) as chunks:
                return b"".join([chunk async for chunk in chunks])
        except GoneError as exc:
            raise _gone() from exc


class _Both:
    """Calls `then` when it was called twice: the result is stored, and the record."""

    __slots__ = ("_left", "_then")

    def __init__(self, then: partial[None]) -> None:
        self._left = 2
        self._then = then

    def __call__(self) -> None:
        self._left -= 1
        if not self._left:
            self._then()


def _gone() -> InferenceError:
    return InferenceError("not_found", "the batch's input file is not there any more")


def _nothing() -> None:
    """The line goes on elsewhere."""
