"""The slots of a worker: what runs in them, who has them alone, and deliveries not settled yet.

A job is acked after its attempt record is stored; until then its lease is extended (R16).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Coroutine

from google.protobuf.message import DecodeError

from broker import subjects
from broker.allocator import kept
from broker.bus import Bus
from broker.bus.jobs import settle
from broker.bus.queue import ACK, IN_PROGRESS, Delivery, nak
from broker.v1 import job_pb2
from workers.gate import Gate

_log = logging.getLogger(__name__)


class Slots:
    """`count` calls at a time, whichever lane they are of.

    `changed` is called when what lanes may ask for may have changed. `reserve` is the part that is
    left to interactive work, whatever waits; the gate knows what providers let through.
    """

    def __init__(
        self, bus: Bus, count: int, changed: Callable[[], None], *, gate: Gate, reserve: float
    ) -> None:
        self.count = count
        self.busy = 0
        # Interactive work is left one at least, but not all.
        left = kept(count, reserve)
        self._most = {
            subjects.INTERACTIVE: count,
            subjects.BACKGROUND: count - left,
            # Where there are many, one less: what becomes free is the background's first.
            subjects.BATCH: count - left - (left > 1),
        }
        # Whether this worker is leaving.
        self.draining = False
        # What runs in them.
        self.tasks: set[asyncio.Task[None]] = set()
        self._bus = bus
        self._gate = gate
        self.changed = changed
        # Deliveries not yet settled, by where their ack goes.
        self._held: set[str] = set()
        self._answers: list[tuple[str, bytes]] = []
        self._answers_ready = asyncio.Event()
        self._alone = asyncio.Lock()
        # Those in slots that wait for their turn alone: they run nothing.
        self._aside = 0
        self._idle = asyncio.Event()

    @property
    def held(self) -> int:
        """Deliveries that are not settled."""
        return len(self._held)

    @property
    def reserved(self) -> bool:
        """Whether somebody runs alone, or waits for it."""
        return self._alone.locked()

    @property
    def open(self) -> bool:
        """Whether anything may be begun."""
        return not (self.draining or self.reserved) and self.room(subjects.INTERACTIVE) > 0

    def room(self, lane: str) -> int:
        """Slots that a lane may take now; below 0 where others have what it leaves to them."""
        return self._most[lane] - self.busy

    def worth(self, lane: str) -> int:
        """For how many of these it is worth asking for jobs, by what providers let through."""
        return self._gate.room(lane, max(0, self.room(lane)))

    def asks(self, lane: str, standing: int, room: int | None = None) -> int:
        """How many jobs of a lane to ask for, where it may have no more than `room`.

        None while the pull that stands has plenty of its credit left, which is `standing`.
        """
        if self.draining or self.reserved:
            return 0
        worth = self.worth(lane)
        free = (worth if room is None else min(room, worth)) - standing
        return free if free * 4 >= self.count or standing < free else 0

    def occupy(self, work: Coroutine[None, None, None], name: str) -> asyncio.Task[None]:
        """Run `work` in a slot."""
        self.busy += 1
        task = asyncio.create_task(work, name=name)
        self.tasks.add(task)
        task.add_done_callback(self._ended)
        self.changed()  # what free slots count on may be used up, and no slot become free soon
        return task

    @contextlib.asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """From inside a slot: nothing else may die with what runs in here (R6)."""
        self._aside += 1
        self._idle.set()
        try:
            await self._alone.acquire()
        finally:
            self._aside -= 1
        try:
            while self.busy - self._aside > 1:
                self._idle.clear()
                await self._idle.wait()
            yield
        finally:
            self._alone.release()
            self.changed()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        self.busy -= 1
        self._idle.set()
        self.changed()
        if not task.cancelled() and (exc := task.exception()) is not None:
            _log.error("job failed", exc_info=exc)

    # Deliveries.

    def take(self, delivery: Delivery) -> job_pb2.Job | None:
        """The job of a delivery, whose lease is extended until it is answered.

        What is no job is settled at once: it would be none for others, too.
        """
        self.hold(delivery.reply)
        try:
            return job_pb2.Job.FromString(delivery.data)
        except DecodeError:
            _log.error("what is no job is dropped from %s", delivery.subject)
            self.answer(delivery.reply, ACK)
            return None

    def hold(self, reply: str) -> None:
        """Extend the lease of a delivery until it is answered."""
        self._held.add(reply)

    def refuse(self, reply: str, delay_s: float) -> None:
        """Hand a delivery back: it comes again after so long, at once when this worker leaves."""
        self.hold(reply)
        self.answer(reply, nak(0.0 if self.draining else delay_s))

    def swap(self, reply: str, newer: str) -> None:
        """A delivery that is held came again: only the newer one can be settled."""
        self._held.discard(reply)
        self._held.add(newer)

    def let_go(self, reply: str) -> None:
        """Extend the lease of a delivery no longer."""
        self._held.discard(reply)

    def answer(self, reply: str, answer: bytes) -> None:
        """Settle a delivery; one that is not held is settled already, or there is none."""
        if reply not in self._held:
            return
        self._held.discard(reply)
        self._answers.append((reply, answer))
        self._answers_ready.set()

    async def settle(self) -> None:
        """Send answers to deliveries, as many at a time as there are; runs until cancelled."""
        while True:
            await self._answers_ready.wait()
            self._answers_ready.clear()
            await self.flush()

    async def flush(self) -> None:
        """Send the answers that are ready."""
        answers, self._answers = self._answers, []
        for reply, answer in answers:
            await settle(self._bus, reply, answer)

    async def extend(self) -> None:
        """Extend the leases of what is held."""
        for reply in list(self._held):
            await settle(self._bus, reply, IN_PROGRESS)
