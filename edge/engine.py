"""The edge's engine: admits requests, publishes their attempts and keeps the books.

What happens to one request is `exchange`'s story; this is what all of them share: the fair
queues, the publisher, the delivery server, the fleet's state and the records.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import random
import socket
import time
import uuid
from collections import defaultdict, deque
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from functools import partial

from broker import dispatch, envelope, presence, routing, subjects
from broker.bus import Bus
from broker.bus.jobs import Jobs
from broker.bus.layout import MAX_INLINE_BODY, MAX_QUEUED_PER_SUBJECT
from broker.bus.lease import Lease
from broker.bus.queue import STREAM_FULL, PubAck, Publisher
from broker.bus.recorder import Recorder
from broker.catalog import catalog
from broker.catalog.bill import Bill
from broker.config import Settings
from broker.errors import InferenceError
from broker.keys import KeyRecord
from broker.v1 import (
    control_service_pb2,
    delivery_service_pb2,
    event_pb2,
    generation_pb2,
    job_pb2,
    record_pb2,
)
from edge.admission import PoolQueue
from edge.delivery import DeliveryServer
from edge.exchange import Attempt, Exchange
from edge.fleet import FleetView
from edge.health import Health
from edge.patience import Patience
from edge.provider_keys import ProviderKeys
from edge.router import Router

_log = logging.getLogger(__name__)

_STREAM = subjects.LANES[subjects.INTERACTIVE]
# An unclaimed attempt is published again this long after a worker of its pool was lost: the lost
# one may have held it, and nobody else gets it before its lease runs out.
_UNCLAIMED_S = 1.0
# While no stream answers, attempts go directly to workers for this long (R14).
_DIRECT_S = 15.0
_DIRECT_PAUSE_S = 0.1


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """One model of a provider that is on."""

    id: str
    provider: str
    name: str
    operations: tuple[str, ...] = ()


class Engine:
    """See the module."""

    def __init__(self, bus: Bus, settings: Settings, fleet_token: str) -> None:
        self.name = f"edge-{socket.gethostname()}-{uuid.uuid4().hex[:8]}"
        self.exchanges: dict[str, Exchange] = {}
        self._patience = Patience(settings.limits)
        self._loop = asyncio.get_running_loop()
        self._bus = bus
        self._settings = settings
        self._publisher = Publisher(bus, timeout_s=2.0)
        self._recorder = Recorder(self._publisher)
        self._jobs = Jobs(bus)
        self._fleet = FleetView(bus, self._resize)
        self._provider_keys = ProviderKeys(settings)
        self._catalog = catalogue = catalog.load(settings.offers)
        self._bill = Bill(catalogue)
        self._health = Health(bus, self._fleet, self.name, self._own)
        self.edge_lives = self._fleet.edge_lives
        self.router = Router(self._fleet, self._fresh, catalogue, settings.routing, self._health)
        self._delivery = DeliveryServer(self, fleet_token)
        self._queues: dict[tuple[str, str], PoolQueue] = defaultdict(PoolQueue)
        self._aliases: dict[tuple[str, str], str] = {}
        self._outbox: deque[tuple[Exchange, Attempt]] = deque()
        self._outbox_filled = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._random = random.Random()
        self._lease: Lease | None = None
        self._address = ""
        # What is made of several requests, and may be between two of them.
        self._held: set[object] = set()
        self._draining = False

    # Life.

    async def start(self) -> None:
        """Listen for workers, read the fleet's state and announce this edge."""
        advertise = self._settings.advertise
        if advertise is None:
            port = await self._delivery.start("127.0.0.1", 0)
            self._address = f"127.0.0.1:{port}"
        else:
            await self._delivery.start("0.0.0.0", advertise.port)
            self._address = f"{advertise.host or socket.gethostname()}:{advertise.port}"
        await self._publisher.start()
        await self._fleet.start()
        await self._health.start()
        lease = presence.encode(presence.EdgeLease(edge=self.name, address=self._address))
        self._lease = Lease(
            self._bus, subjects.WORKERS, subjects.edge_key(self.name), lambda: lease
        )
        await self._lease.start()
        self._spawn(self._pump(), "publish")
        self._spawn(self._tick(), "tick")

    async def drain(self, grace_s: float) -> None:
        """Refuse new requests and wait for the running ones, at most `grace_s`."""
        self._draining = True
        deadline = asyncio.get_running_loop().time() + grace_s
        while (self.exchanges or self._held) and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.05)  # a few wake-ups, once in a process's life

    async def close(self) -> None:
        """Stop. Whatever still runs is cancelled and told so."""
        self._draining = True
        for exchange in list(self.exchanges.values()):
            exchange.close()
        if self._lease is not None:
            await self._lease.release()
        await self._recorder.close()
        await self._jobs.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._delivery.close()
        await self._publisher.close()
        await self._health.close()
        await self._fleet.close()

    # What front ends call.

    async def submit(
        self,
        request: generation_pb2.Request,
        key: KeyRecord,
        *,
        request_id: str,
        timeout_s: float,
        alias: str = "",
        provider_key: str | None = None,
        attachments: Sequence[bytes | memoryview] = (),
        accepted: bool = False,
    ) -> Exchange:
        """Accept a request. Raises `InferenceError` when it is refused.

        `request_id` is unique; `alias` is the caller's own name for it, to cancel by;
        `provider_key` is the caller's own key that came with it; `attachments` are what references
        in the request count: they stay here until it ends, for workers to fetch (R10). `accepted`:
        it is a part of one that was accepted, and passes no admission (R13).
        """
        if self._draining and not accepted:
            raise InferenceError(
                "draining", "this edge is shutting down; send the request again", retry_after=1
            )
        if not self._bus.connected:
            raise InferenceError(
                "broker_unavailable", "the queue is unreachable; retry shortly", retry_after=1
            )
        decision = await self.router.decide(request)
        targets, provider_keys = self._provider_keys.of(
            request.platform, key, provider_key, decision.targets
        )
        plan = dispatch.Plan(targets)
        if plan.has_next:
            self._health.chosen(plan.target)
        if alias and (key.tenant, alias) in self._aliases:
            raise InferenceError(
                "idempotency_conflict", f"request {alias!r} is running already", param="request_id"
            )
        exchange = Exchange(
            self,
            request,
            key,
            request_id,
            plan=plan,
            timeout_s=timeout_s,
            provider_keys=provider_keys,
            attachments=attachments,
        )
        exchange.alias = alias
        exchange.route = decision.explained
        self.exchanges[request_id] = exchange
        if alias:
            self._aliases[key.tenant, alias] = request_id
        queue = self._queues[plan.target.provider, plan.target.pool]
        try:
            room = 1 if accepted else self._settings.limits.queue_size - self.queued()
            queue.enter(exchange, now=self._loop.time(), room=room)
        except InferenceError as exc:
            exchange.close()
            raise exc from None
        return exchange

    def hold(self, whole: object) -> None:
        """Wait for this too when draining, until it is let go."""
        self._held.add(whole)

    def let_go(self, whole: object) -> None:
        """It is over. Idempotent."""
        self._held.discard(whole)

    def cancel(self, request_id: str, tenant: str) -> bool:
        """Cancel a running request of this tenant by its id or alias."""
        exchange = self.exchanges.get(self._aliases.get((tenant, request_id), request_id))
        if exchange is None or exchange.key.tenant != tenant:
            return False
        exchange.cancel()
        return True

    async def decide(self, request: generation_pb2.Request) -> routing.Decision:
        """Where a request would go. Raises `InferenceError`."""
        return await self.router.explain(request)

    def models(self) -> list[ModelInfo]:
        """The models that workers list."""
        known = self._catalog.operations
        return [ModelInfo(f"{p}/{m}", p, m, known(p, m)) for p, m in self._fleet.fleet.models()]

    def near(self, model: str) -> list[str]:
        """Ids that look like `model`."""
        return routing.near(model, self._fleet.fleet)

    def ready(self) -> bool:
        """Whether a request would be served."""
        return self._bus.connected and bool(self._fleet.fleet.live) and not self._draining

    def queued(self) -> int:
        """Requests waiting in this edge."""
        return sum(queue.waiting for queue in self._queues.values())

    def load(self) -> control_service_pb2.GetLoadResponse:
        """Gauges: all of them are back at 0 when nothing runs."""
        running = sum(
            1 for e in self.exchanges.values() if e.attempt is not None and e.attempt.session
        )
        queued = self.queued()
        links = {link.worker: link for link in self._delivery.links}
        return control_service_pb2.GetLoadResponse(
            edge=self.name,
            in_flight=len(self.exchanges),
            queued=queued,
            published=len(self.exchanges) - running - queued,
            running=running,
            tasks=len(asyncio.all_tasks()),
            workers=[
                control_service_pb2.WorkerLoad(
                    worker=lease.worker,
                    provider=lease.provider,
                    pool=lease.pool,
                    slots=lease.slots,
                    sessions=len(links[lease.worker].sessions) if lease.worker in links else 0,
                    gauges=links[lease.worker].gauges if lease.worker in links else None,
                )
                for lease in self._fleet.workers.values()
            ],
        )

    # What exchanges call.

    def publish(self, exchange: Exchange, attempt: Attempt) -> None:
        """Put an attempt into the queue; `exchange.refused` follows if it is not taken."""
        self._outbox.append((exchange, attempt))
        self._outbox_filled.set()

    def withdraw(self, attempt: Attempt) -> None:
        """Take a superseded or cancelled attempt out of the queue (R2)."""
        attempt.withdrawn = True
        if attempt.sequence:
            self._jobs.delete(_STREAM, attempt.sequence)

    def moved(self, old: routing.Target, new: routing.Target) -> None:
        """A launched request goes on in another pool: its place moves with it."""
        if (old.provider, old.pool) == (new.provider, new.pool):
            return
        self._queues[new.provider, new.pool].outstanding += 1
        self._queues[old.provider, old.pool].vacate(self._loop.time())

    def charge(
        self,
        exchange: Exchange,
        attempt: Attempt,
        started: event_pb2.Started | None,
        completed: event_pb2.Completed,
    ) -> None:
        """Record the one charge of an answered request (R16), and tell its cost."""
        target = attempt.target
        cost = self._bill.cost(target.provider, target.model, completed)
        if cost is not None:
            completed.cost.CopyFrom(cost)
        if not exchange.provider_keys:
            self._health.worked(target)
        self._recorder.charge(
            record_pb2.Charge(
                request_id=exchange.request_id,
                attempt=attempt.number,
                tenant=exchange.key.tenant,
                route=_route(target),
                answered_model=started.model if started is not None else "",
                usage=completed.usage,
                charged_at_ms=time.time_ns() // 1_000_000,
                tags=exchange.platform.tags,
                signature=exchange.platform.signature,
                cost=cost,
            )
        )

    def failed(self, exchange: Exchange, attempt: Attempt, error: InferenceError) -> None:
        """A provider failed an attempt: routes of others may avoid it."""
        # A caller's own key tells nothing of ours, nor does one key of several.
        if not exchange.provider_keys and not error.other_keys:
            self._health.failed(attempt.target, error)

    def dead_letter(self, exchange: Exchange, attempt: Attempt) -> None:
        """Bury a job that killed the worker it ran on alone."""
        target = attempt.target
        body = envelope.encode(self._envelope(exchange, attempt), exchange.raw)
        if len(body) > MAX_INLINE_BODY or exchange.platform.log_query_body is False:
            body = self._envelope(exchange, attempt).SerializeToString()
        reason = f"worker lost {exchange.plan.losses + 1} times"
        self._spawn(
            self._jobs.bury(subjects.INTERACTIVE, target.provider, target.pool, body, reason),
            "dead letter",
        )

    def ended(self, exchange: Exchange) -> None:
        """An exchange is over."""
        if self.exchanges.pop(exchange.request_id, None) is None:
            return
        if exchange.alias:
            self._aliases.pop((exchange.key.tenant, exchange.alias), None)
        target = exchange.plan.target
        queue = self._queues[target.provider, target.pool]
        if exchange.launched:
            queue.vacate(self._loop.time())
        else:
            queue.forget(exchange)

    def jitter(self) -> float:
        """A number from 0 to 1."""
        return self._random.random()

    def limits(self, exchange: Exchange, attempt: Attempt) -> delivery_service_pb2.TimeLimits:
        """How long the upstream call of an attempt may be silent."""
        return self._patience.of(
            attempt.target, has_next=exchange.plan.has_next, tools=exchange.tools
        )

    def worker_lost(self, provider: str, pool: str) -> None:
        """A worker's link broke: what it held unclaimed has to run elsewhere (fault 1)."""
        self._spawn(self._republish_unclaimed(provider, pool), "republish")

    # Inside.

    async def _fresh(self) -> routing.Fleet:
        """Absence is believed after a fresh read, and an open link is presence too (R12)."""
        await self._fleet.refresh()
        links = {link.provider: {link.pool: frozenset[str]()} for link in self._delivery.links}
        fleet = self._fleet.fleet
        return routing.Fleet({**links, **fleet.live}, fleet.known)

    def _own(self, provider: str) -> int:
        """Requests of this edge that wait for a provider or run there."""
        queues = (queue for (name, _), queue in self._queues.items() if name == provider)
        return sum(queue.outstanding + queue.waiting for queue in queues)

    def _resize(self) -> None:
        for (provider, pool), slots in self._fleet.slots.items():
            self._queues[provider, pool].resize(
                slots, self._fleet.edges, capacity=MAX_QUEUED_PER_SUBJECT
            )

    async def _pump(self) -> None:
        """Publish what exchanges put into the outbox."""
        while True:
            await self._outbox_filled.wait()
            self._outbox_filled.clear()
            while self._outbox:
                exchange, attempt = self._outbox.popleft()
                if attempt is not exchange.attempt or exchange.done:
                    continue
                job = self._job(exchange, attempt)
                await self._publisher.send(
                    attempt.target.subject,
                    job,
                    partial(self._published, exchange, attempt),
                    Nats_Msg_Id=subjects.message_id(exchange.request_id, attempt.number),
                    # Whole seconds, rounded up; only a sweep: the timer is the deadline (R11).
                    Nats_TTL=str(exchange.remaining_ms() // 1000 + 31),
                )

    def _published(self, exchange: Exchange, attempt: Attempt, ack: PubAck) -> None:
        if ack.error is None and not ack.unavailable and not ack.duplicate:
            attempt.sequence = ack.seq
            if attempt.withdrawn:
                self._jobs.delete(_STREAM, ack.seq)
            return
        if attempt.session is not None or attempt is not exchange.attempt or exchange.done:
            return
        if ack.unavailable:
            self._spawn(self._go_direct(exchange, attempt), "direct")
        elif ack.error is not None and ack.error.err_code == STREAM_FULL:
            message = f"the queue of this model is full ({ack.error.description}); retry later"
            exchange.refused(attempt, InferenceError("queue_full", message, retry_after=1))
        else:
            why = "duplicate message id" if ack.error is None else ack.error.description
            _log.error("attempt %s.%d not queued: %s", exchange.request_id, attempt.number, why)
            error = InferenceError("broker_unavailable", f"the queue refused the request: {why}")
            exchange.refused(attempt, error)

    async def _go_direct(self, exchange: Exchange, attempt: Attempt) -> None:
        """No stream answered: offer later attempts to workers over core requests (R14)."""
        loop = asyncio.get_running_loop()
        give_up = min(loop.time() + _DIRECT_S, exchange.deadline)
        target = attempt.target
        while loop.time() < give_up:
            if attempt is not exchange.attempt or attempt.session is not None or exchange.done:
                return
            attempt.withdrawn = True  # a stored copy is superseded by the next number
            attempt = exchange.supersede(attempt)
            attempt.direct = True
            taken = await self._jobs.ask_direct(
                target.provider, target.pool, self._job(exchange, attempt)
            )
            if taken:
                # It holds the job now; if it dies its link breaks.
                await asyncio.sleep(_UNCLAIMED_S)
            else:
                await asyncio.sleep(_DIRECT_PAUSE_S)
        if attempt is exchange.attempt and attempt.session is None and not exchange.done:
            message = "the queue has no leader and no worker took the request; retry shortly"
            exchange.refused(attempt, InferenceError("broker_unavailable", message, retry_after=1))

    async def _republish_unclaimed(self, provider: str, pool: str) -> None:
        loop = asyncio.get_running_loop()
        lost_at = loop.time()
        await asyncio.sleep(_UNCLAIMED_S)
        for exchange in list(self.exchanges.values()):
            attempt = exchange.attempt
            if attempt is None or attempt.session is not None or attempt.direct:
                continue
            target = attempt.target
            if (target.provider, target.pool) == (provider, pool) and (
                attempt.published_at < lost_at
            ):
                exchange.handed_back(attempt)

    def _envelope(self, exchange: Exchange, attempt: Attempt) -> job_pb2.Job:
        return job_pb2.Job(
            request_id=exchange.request_id,
            attempt=attempt.number,
            losses=exchange.plan.losses,
            tenant=exchange.key.tenant,
            route=_route(attempt.target),
            remaining_ms=exchange.remaining_ms(),
            delivery_address=self._address,
            claim_secret=attempt.secret,
            avoid_keys=(*exchange.plan.dead_keys, *exchange.plan.tired_keys),
        )

    def _job(self, exchange: Exchange, attempt: Attempt) -> bytes:
        job = self._envelope(exchange, attempt)
        if len(exchange.raw) <= MAX_INLINE_BODY:
            return envelope.encode(job, exchange.raw)
        digest = hashlib.sha256(exchange.raw).digest()
        job.body_reference.CopyFrom(job_pb2.BodyReference(size=len(exchange.raw), digest=digest))
        return job.SerializeToString()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(1)
            self._delivery.check()

    def _spawn(self, work: Coroutine[None, None, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        with contextlib.suppress(asyncio.CancelledError):
            if (exc := task.exception()) is not None:
                _log.error("task %s failed", task.get_name(), exc_info=exc)


def _route(target: routing.Target) -> job_pb2.Route:
    return job_pb2.Route(provider=target.provider, pool=target.pool, model=target.model)
