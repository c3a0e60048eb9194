"""A worker process: takes jobs of one provider's pool, runs each once it is granted, settles it.

A pull never asks for more slots than are free.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial

from broker import subjects
from broker.bus import Bus
from broker.bus.jobs import serve_direct
from broker.bus.layout import ACK_WAIT_S
from broker.bus.queue import ACK, Delivery, Publisher, Puller, nak
from broker.bus.recorder import Recorder
from broker.catalog import catalog
from broker.catalog.bill import Bill
from broker.config import Limits, ProviderSettings
from broker.dispatch import LOSSES_BEFORE_ALONE
from broker.process import unique_name
from broker.settings import CapacitySettings
from broker.tasks import keep
from broker.timeouts import ByName
from broker.v1 import delivery_service_pb2, job_pb2
from workers import credentials
from workers.announcing import Announcing
from workers.attempt import Attempt
from workers.background import Background
from workers.batch import Batch
from workers.calls import CALLS_AT_ONCE
from workers.capacity import CapacityLink
from workers.delivery import EdgeLost, Killed, Session
from workers.edges import Edges
from workers.fetch import Fetcher
from workers.gate import Gate, HandOn
from workers.keys import Keys
from workers.provider import Provider
from workers.seats import Seats
from workers.slots import Slots
from workers.standstill import Standstill
from workers.tools import Tools
from workers.upstream import Upstream

_log = logging.getLogger(__name__)

HEARTBEAT_S = 2.0
# A job whose edge cannot be reached is offered again after so long, until that is gone (R1).
EDGE_RETRY_S = 1.0
# A job that found no slot comes again after so long.
_FULL_S = 0.05
# Freed slots are asked for together.
_PULL_DELAY_S = 0.002


class Runner:
    """See the module."""

    def __init__(
        self,
        bus: Bus,
        provider: Provider,
        settings: ProviderSettings,
        fleet_token: str,
        *,
        fetcher: Fetcher,
        limits: Limits | None = None,
        capacity: CapacitySettings | None = None,
        bill: Bill | None = None,
        timeouts: ByName | None = None,
    ) -> None:
        self.name = unique_name(settings.name)
        self._bus = bus
        self._fetcher = fetcher
        self._provider = provider
        self._settings = settings
        hello = delivery_service_pb2.Hello(
            worker=self.name, provider=settings.name, pool=settings.pool
        )
        self._upstream = Upstream(
            provider,
            max_connections=settings.slots * CALLS_AT_ONCE + 16,
            credentials=credentials.load(provider),
        )
        self._keys = Keys(settings.api_keys)
        capacity = capacity or CapacitySettings()
        self.gate = Gate(
            self._keys,
            settings.slots,
            limits=settings.limits if capacity.shared else None,
            reserve=capacity.interactive_reserve,
            on_room=self._pull_soon,
        )
        self._capacity: CapacityLink | None = None
        if capacity.shared:
            self._capacity = CapacityLink(bus, self.gate, self.name, settings.name)
        self._standstill = Standstill()
        self._publisher = Publisher(bus, timeout_s=2.0)
        self._recorder = Recorder(self._publisher)
        self._edges = Edges(bus, fleet_token, hello)
        self._slots = Slots(
            bus,
            settings.slots,
            self._pull_soon,
            gate=self.gate,
            reserve=capacity.interactive_reserve,
        )
        # Whom a job that runs answers to.
        self._sessions: dict[asyncio.Task[None], Session] = {}
        self._calls = 0
        self._pull_timer: asyncio.TimerHandle | None = None
        self._background: list[asyncio.Task[None]] = []
        self._stop_direct: Callable[[], Awaitable[None]] | None = None
        self._puller = Puller(
            bus,
            subjects.LANES[subjects.INTERACTIVE],
            subjects.consumer(subjects.INTERACTIVE, settings.name, settings.pool),
            self._delivered,
            self._pull_soon,
        )
        tools = self._tools(limits or Limits(), timeouts or {}, bill or Bill(catalog.load()))
        self._lane = Background(bus, settings, self._slots, tools)
        self._batch = Batch(bus, settings, self._slots, tools)
        self._announcing = Announcing(bus, settings, self._slots, tools)

    def _tools(self, limits: Limits, timeouts: ByName, bill: Bill) -> Tools:
        """What the lanes that have no edge share."""
        return Tools(
            worker=self.name,
            provider=self._provider,
            upstream=self._upstream,
            keys=self._keys,
            fetcher=self._fetcher,
            publisher=self._publisher,
            recorder=self._recorder,
            limits=limits,
            bill=bill,
            gate=self.gate,
            standstill=self._standstill,
            timeouts=timeouts,
        )

    # Life.

    async def start(self) -> None:
        """Announce this worker and ask for jobs."""
        await self._publisher.start()
        await self._puller.start()
        await self._lane.start()
        await self._batch.start()
        if self._capacity is not None:
            await self._capacity.start()
        self._stop_direct = await serve_direct(
            self._bus, self._settings.name, self._settings.pool, self._offered
        )
        await self._announcing.lease.start()
        self._standstill.start()
        self._background = [
            keep(self._tick, "tick"),
            keep(self._slots.settle, "settle"),
        ]
        self._pull_soon()

    async def drain(self, grace_s: float) -> None:
        """Take no more, finish what runs within the grace period, hand over the rest (R15)."""
        self._slots.draining = True
        # With its pulls gone nothing more is sent here; what was on its way is handed back.
        await self._puller.close()
        await self._lane.close()
        await self._batch.close()
        await self._announcing.lease.release()
        if self._stop_direct is not None:
            await self._stop_direct()
        tasks = self._slots.tasks
        if tasks:
            _log.info("draining: %d requests are running", len(tasks))
            await asyncio.wait(tasks, timeout=grace_s)
        for task in list(tasks):
            if (session := self._sessions.get(task)) is not None:
                session.hand_back("draining")
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=2)

    async def close(self) -> None:
        """Leave; call `drain` before."""
        await self._puller.close()
        await self._batch.finish()
        await self._recorder.close()
        await self._edges.close()
        await self._slots.flush()
        self._standstill.close()
        for task in self._background:
            task.cancel()
        if self._capacity is not None:
            await self._capacity.close()
        await self._publisher.close()
        await self._upstream.close()

    def gauges(self) -> delivery_service_pb2.WorkerGauges:
        """What this process is doing right now."""
        return delivery_service_pb2.WorkerGauges(
            busy=self._slots.busy,
            held=self._slots.held,
            calls=self._calls,
            records=self._recorder.pending,
            tasks=len(asyncio.all_tasks()),
        )

    # Taking jobs.

    def _pull_soon(self) -> None:
        if self._pull_timer is not None or self._slots.draining:
            return
        if self._wanted() or self._lane.wanted() or self._batch.due():
            loop = asyncio.get_running_loop()
            self._pull_timer = loop.call_later(_PULL_DELAY_S, self._start_pull)

    def _wanted(self) -> int:
        return self._slots.asks(subjects.INTERACTIVE, self._puller.credits)

    def _start_pull(self) -> None:
        self._pull_timer = None
        if wanted := self._wanted():
            self._puller.pull(wanted)
        self._lane.pull()
        self._batch.pull()

    def _delivered(self, delivery: Delivery) -> None:
        # Pulls of all lanes stand at a time: what has no room goes back, and its credit with it.
        if not self._slots.open:
            self._slots.refuse(delivery.reply, _FULL_S)
        elif (job := self._slots.take(delivery)) is not None:
            self._begin(job, delivery)

    def _offered(self, data: bytes) -> bool:
        """A job over the direct path (R14): no delivery to settle."""
        if not self._slots.open:
            return False
        job = job_pb2.Job.FromString(data)
        seats = self.gate.seats(subjects.INTERACTIVE, job)
        if seats is not None:
            self._begin(job, None, seats)
        return seats is not None

    def _begin(
        self, job: job_pb2.Job, delivery: Delivery | None, seats: Seats | None = None
    ) -> None:
        task = self._slots.occupy(self._run(job, delivery, seats), f"job {job.request_id}")
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._sessions.pop(task, None)

    # Running one.

    async def _run(self, job: job_pb2.Job, delivery: Delivery | None, seats: Seats | None) -> None:
        reply = delivery.reply if delivery is not None else ""
        try:
            if job.losses < LOSSES_BEFORE_ALONE:
                await self._admit_and_run(job, reply, seats, alone=False)
            else:
                # Whoever runs still may need the seat that it would wait with.
                if seats is not None:
                    seats.release()
                async with self._slots.alone():
                    await self._admit_and_run(job, reply, seats, alone=True)
        except HandOn as exc:
            self._slots.answer(reply, nak(exc.delay_s))
        except asyncio.CancelledError:
            self._slots.answer(reply, nak(0.0))
            raise
        except Exception:
            # Its lease runs out, and another worker has it.
            self._slots.let_go(reply)
            raise

    async def _admit_and_run(
        self, job: job_pb2.Job, reply: str, seats: Seats | None, *, alone: bool
    ) -> None:
        seats = seats or await self.gate.admit(subjects.INTERACTIVE, job)
        try:
            await self._claim_and_run(job, reply, seats, alone=alone)
        finally:
            seats.release()

    async def _claim_and_run(
        self, job: job_pb2.Job, reply: str, seats: Seats, *, alone: bool
    ) -> None:
        """Claim, then run (R1)."""
        session: Session | None = None
        try:
            session = self._edges.link(job.delivery_address).open(job, alone=alone)
            grant = await session.grant()
        except Killed:
            # Not term: that would send an advisory for every cancelled request.
            self._slots.answer(reply, ACK)
            return
        except EdgeLost:
            if session is not None:
                session.close()
            gone = reply and await self._edges.gone(job.delivery_address)
            self._slots.answer(reply, ACK if gone else nak(EDGE_RETRY_S))
            return
        except asyncio.CancelledError:
            if session is not None:
                session.close()
            raise
        await self._granted(job, session, grant, reply, seats)

    async def _granted(
        self,
        job: job_pb2.Job,
        session: Session,
        grant: delivery_service_pb2.Grant,
        reply: str,
        seats: Seats,
    ) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a job runs in its own task")
        self._sessions[task] = session
        attempt = Attempt(
            job, session, self._provider, self.name, seats, standstill=self._standstill
        )
        session.when_over(task.cancel)
        self._calls += 1
        try:
            request = job.request
            if job.HasField("body_reference"):
                request = await session.link.fetch_body(job)
            await attempt.run(
                request,
                grant,
                self._upstream,
                self._keys,
                self._fetcher,
                attachments=partial(session.link.fetch_attachment, job),
            )
        except EdgeLost:
            pass
        except asyncio.CancelledError:
            if session.over is None and not self._slots.draining:
                raise
        finally:
            self._calls -= 1
            session.when_over(None)
            session.close()
            if attempt.called:
                self._announcing.paces.took(attempt.record, time.monotonic())
                self._recorder.attempt(attempt.record, partial(self._slots.answer, reply, ACK))
            else:
                self._slots.answer(reply, ACK)

    async def _tick(self) -> None:
        """Heartbeats every 2 s, leases every third of the time they last."""
        beats = 0
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            beats += 1
            self._batch.tick(HEARTBEAT_S)
            self._edges.heartbeat(self.gauges())
            if beats * HEARTBEAT_S % (ACK_WAIT_S // 3) < HEARTBEAT_S:
                await self._slots.extend()
