"""A worker process: takes jobs of one provider's pool, runs each once it is granted, settles it.

Slots are leased locally: a pull never asks for more than is free. A job is acked after its
attempt record is stored; until then its lease is extended (R16).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from functools import partial

from broker import presence, subjects
from broker.bus import Bus
from broker.bus.jobs import serve_direct, settle
from broker.bus.layout import ACK_WAIT_S
from broker.bus.lease import Lease
from broker.bus.queue import ACK, IN_PROGRESS, Delivery, Publisher, Puller, nak
from broker.bus.recorder import Recorder
from broker.config import Limits, ProviderSettings
from broker.dispatch import LOSSES_BEFORE_ALONE
from broker.v1 import delivery_service_pb2, job_pb2
from workers import credentials
from workers.attempt import Attempt
from workers.background import Background
from workers.calls import CALLS_AT_ONCE
from workers.claimed import Tools
from workers.delivery import EdgeLink, EdgeLost, Killed, Session
from workers.fetch import Fetcher
from workers.keys import Keys
from workers.pace import Paces
from workers.provider import Provider
from workers.upstream import Upstream

_log = logging.getLogger(__name__)

HEARTBEAT_S = 2.0
# An edge that cannot be reached gets its job offered again this often, then it is dropped (R1).
EDGE_TRIES = 3
EDGE_RETRY_S = 1.0
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
    ) -> None:
        self.name = f"{settings.name}-{socket.gethostname()}-{uuid.uuid4().hex[:8]}"
        self._bus = bus
        self._fetcher = fetcher
        self._provider = provider
        self._settings = settings
        self._token = fleet_token
        self._hello = delivery_service_pb2.Hello(
            worker=self.name, provider=settings.name, pool=settings.pool
        )
        self._upstream = Upstream(
            provider,
            max_connections=settings.slots * CALLS_AT_ONCE + 16,
            credentials=credentials.load(provider),
        )
        self._keys = Keys(settings.api_keys)
        self._paces = Paces()
        self._publisher = Publisher(bus, timeout_s=2.0)
        self._recorder = Recorder(self._publisher)
        self._links: dict[str, EdgeLink] = {}
        # Deliveries not yet settled, by where their ack goes.
        self._held: set[str] = set()
        self._answers: list[tuple[str, bytes]] = []
        self._answers_ready = asyncio.Event()
        self._jobs: dict[asyncio.Task[None], Session | None] = {}
        self._calls = 0
        self._busy = 0
        self._alone = asyncio.Lock()
        self._draining = False
        self._pull_timer: asyncio.TimerHandle | None = None
        self._idle = asyncio.Event()
        self._background: list[asyncio.Task[None]] = []
        self._stop_direct: Callable[[], Awaitable[None]] | None = None
        self._puller = Puller(
            bus,
            subjects.LANES[subjects.INTERACTIVE],
            subjects.consumer(subjects.INTERACTIVE, settings.name, settings.pool),
            self._delivered,
            self._pull_soon,
        )
        self._lane = Background(
            bus,
            settings,
            self,
            Tools(
                self.name,
                provider,
                self._upstream,
                self._keys,
                fetcher,
                self._publisher,
                self._recorder,
                _time_limits(limits or Limits()),
            ),
        )
        key = subjects.worker_key(settings.name, self.name)
        self._lease = Lease(bus, subjects.WORKERS, key, self._presence)

    # Life.

    async def start(self) -> None:
        """Announce this worker and ask for jobs."""
        await self._publisher.start()
        await self._puller.start()
        await self._lane.start()
        self._stop_direct = await serve_direct(
            self._bus, self._settings.name, self._settings.pool, self._offered
        )
        await self._lease.start()
        self._background = [
            asyncio.create_task(self._tick(), name="tick"),
            asyncio.create_task(self._settle(), name="settle"),
        ]
        self._pull_soon()

    async def drain(self, grace_s: float) -> None:
        """Take no more, finish what runs within the grace period, hand over the rest (R15)."""
        self._draining = True
        # With its pulls gone nothing more is sent here; what was on its way is handed back.
        await self._puller.close()
        await self._lane.close()
        await self._lease.release()
        if self._stop_direct is not None:
            await self._stop_direct()
        if self._jobs:
            _log.info("draining: %d requests are running", len(self._jobs))
            await asyncio.wait(self._jobs, timeout=grace_s)
        for task, session in list(self._jobs.items()):
            if session is not None:
                session.hand_back("draining")
            task.cancel()
        if self._jobs:
            await asyncio.wait(self._jobs, timeout=2)

    async def close(self) -> None:
        """Leave; call `drain` before."""
        await self._puller.close()
        await self._recorder.close()
        for link in list(self._links.values()):
            await link.close()
        for reply, answer in self._answers:
            await settle(self._bus, reply, answer)
        for task in self._background:
            task.cancel()
        await self._publisher.close()
        await self._upstream.close()

    def gauges(self) -> delivery_service_pb2.WorkerGauges:
        """What this process is doing right now."""
        return delivery_service_pb2.WorkerGauges(
            busy=self._busy,
            held=len(self._held),
            calls=self._calls,
            records=self._recorder.pending,
            tasks=len(asyncio.all_tasks()),
        )

    def _presence(self) -> bytes:
        """What this worker says of itself when it renews its lease."""
        lease = presence.WorkerLease(
            worker=self.name,
            provider=self._settings.name,
            pool=self._settings.pool,
            slots=self._settings.slots,
            models=self._settings.models or self._provider.models,
            busy=self._busy,
            paces=self._paces.known(time.monotonic()),
        )
        return presence.encode(lease)

    # Taking jobs.

    def _pull_soon(self) -> None:
        if self._pull_timer is not None or self._draining:
            return
        if self._wanted() or self._lane.wanted():
            loop = asyncio.get_running_loop()
            self._pull_timer = loop.call_later(_PULL_DELAY_S, self._start_pull)

    def _wanted(self) -> int:
        """Slots to ask for: none while the pull that stands has plenty of credit left."""
        standing = self._puller.credits
        free = self._settings.slots - self._busy - standing
        return free if free * 4 >= self._settings.slots or standing < free else 0

    def _start_pull(self) -> None:
        self._pull_timer = None
        if not (self._draining or self._alone.locked()) and (wanted := self._wanted()) > 0:
            self._puller.pull(wanted)
        self._lane.pull()

    def _delivered(self, delivery: Delivery) -> None:
        self._held.add(delivery.reply)
        # Pulls of both lanes stand at a time: what has no room goes back, and its credit with it.
        if self._draining or self._alone.locked() or self._busy >= self._settings.slots:
            self.answer(delivery.reply, nak(0.0 if self._draining else 0.05))
            return
        self._begin(job_pb2.Job.FromString(delivery.data), delivery)

    def _offered(self, data: bytes) -> bool:
        """A job over the direct path (R14): no delivery to settle."""
        if self._draining or self._alone.locked() or self._busy >= self._settings.slots:
            return False
        self._begin(job_pb2.Job.FromString(data), None)
        return True

    def _begin(self, job: job_pb2.Job, delivery: Delivery | None) -> None:
        self.occupy(self._run(job, delivery), f"job {job.request_id}")

    # What the background lane shares.

    @property
    def slots(self) -> int:
        """Calls made at a time."""
        return self._settings.slots

    @property
    def busy(self) -> int:
        """Slots in use."""
        return self._busy

    @property
    def draining(self) -> bool:
        """Whether this worker is leaving."""
        return self._draining

    @property
    def reserved(self) -> bool:
        """Whether somebody runs alone, or waits for it."""
        return self._alone.locked()

    def hold(self, reply: str) -> None:
        """Extend the lease of a delivery until it is answered."""
        self._held.add(reply)

    def occupy(self, work: Coroutine[None, None, None], name: str) -> asyncio.Task[None]:
        """Run `work` in a slot."""
        self._busy += 1
        task = asyncio.create_task(work, name=name)
        self._jobs[task] = None
        task.add_done_callback(self._ended)
        self._pull_soon()  # what free slots count on may be used up, and no slot become free soon
        return task

    @contextlib.asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """From inside a slot: nothing else may die with what runs in here (R6)."""
        async with self._alone:
            while self._busy > 1:
                self._idle.clear()
                await self._idle.wait()
            yield

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._jobs.pop(task, None)
        self._busy -= 1
        if self._busy <= 1:
            self._idle.set()
        self._pull_soon()
        if not task.cancelled() and (exc := task.exception()) is not None:
            _log.error("job failed", exc_info=exc)

    # Running one.

    async def _run(self, job: job_pb2.Job, delivery: Delivery | None) -> None:
        if job.losses < LOSSES_BEFORE_ALONE:
            await self._claim_and_run(job, delivery, alone=False)
            return
        async with self.alone():
            await self._claim_and_run(job, delivery, alone=True)

    async def _claim_and_run(
        self, job: job_pb2.Job, delivery: Delivery | None, *, alone: bool
    ) -> None:
        """Claim, then run (R1)."""
        reply = delivery.reply if delivery is not None else ""
        session: Session | None = None
        try:
            session = self._link(job.delivery_address).open(job, alone=alone)
            grant = await session.grant()
        except Killed:
            # Not term: that would send an advisory for every cancelled request.
            self.answer(reply, ACK)
            return
        except EdgeLost:
            if session is not None:
                session.close()
            last = delivery is None or delivery.deliveries >= EDGE_TRIES
            self.answer(reply, ACK if last else nak(EDGE_RETRY_S))
            return
        except asyncio.CancelledError:
            if session is not None:
                session.close()
            self.answer(reply, nak(0.0))
            raise
        await self._granted(job, session, grant, reply)

    async def _granted(
        self,
        job: job_pb2.Job,
        session: Session,
        grant: delivery_service_pb2.Grant,
        reply: str,
    ) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a job runs in its own task")
        self._jobs[task] = session
        attempt = Attempt(job, session, self._provider, self.name)
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
            if session.over is None and not self._draining:
                raise
        finally:
            self._calls -= 1
            session.when_over(None)
            session.close()
            if attempt.called:
                self._paces.took(attempt.record, time.monotonic())
                self._recorder.attempt(attempt.record, partial(self.answer, reply, ACK))
            else:
                self.answer(reply, ACK)

    def _link(self, address: str) -> EdgeLink:
        link = self._links.get(address)
        if link is None or not link.alive:
            link = self._links[address] = EdgeLink(address, self._token, self._hello)
        return link

    def answer(self, reply: str, answer: bytes) -> None:
        """Settle a delivery; a job of the direct path has none."""
        if reply not in self._held:
            return
        self._held.discard(reply)
        self._answers.append((reply, answer))
        self._answers_ready.set()

    async def _settle(self) -> None:
        """Send answers to deliveries, as many at a time as there are."""
        while True:
            await self._answers_ready.wait()
            self._answers_ready.clear()
            answers, self._answers = self._answers, []
            for reply, answer in answers:
                await settle(self._bus, reply, answer)

    async def _tick(self) -> None:
        """Heartbeats every 2 s, leases every third of the time they last."""
        beats = 0
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            beats += 1
            gauges = self.gauges()
            for address, link in list(self._links.items()):
                if link.alive:
                    link.heartbeat(gauges)
                else:
                    del self._links[address]
            if beats * HEARTBEAT_S % (ACK_WAIT_S // 3) < HEARTBEAT_S:
                for reply in list(self._held):
                    await settle(self._bus, reply, IN_PROGRESS)


def _time_limits(limits: Limits) -> delivery_service_pb2.TimeLimits:
    """The limits of calls that no edge grants."""
    return delivery_service_pb2.TimeLimits(
        connect_ms=int(limits.connect_timeout_s * 1000),
        first_token_ms=int(limits.reasoning_first_token_timeout_s * 1000),
        stall_ms=int(limits.reasoning_stall_timeout_s * 1000),
    )
