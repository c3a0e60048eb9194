"""The edge's engine: admits requests, publishes their attempts and keeps the books.

What happens to one request is `exchange`'s story; this is what all of them share: the fair
queues, the publisher, the delivery server, the fleet's state and the records.
"""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from broker import dispatch, presence, routing, subjects
from broker.bus import Bus
from broker.bus.lease import Lease
from broker.bus.queue import Publisher
from broker.bus.recorder import Recorder
from broker.catalog import catalog
from broker.catalog.bill import Bill
from broker.config import Settings
from broker.errors import InferenceError
from broker.fleet import FleetView
from broker.health import Health
from broker.keys import KeyRecord
from broker.process import unique_name
from broker.router import Router
from broker.tasks import Tasks
from broker.telemetry import Telemetry
from broker.translate.router_metadata import metadata
from broker.v1 import (
    control_service_pb2,
    delivery_service_pb2,
    event_pb2,
    generation_pb2,
    record_pb2,
)
from broker.wallclock import now_ms
from edge.admission import Admission
from edge.attempt import Attempt
from edge.delivery import DeliveryServer
from edge.exchange import Exchange
from edge.hedged import HedgedExchange, hedge_after
from edge.outlet import Outlet, route_of
from edge.patience import Patience
from edge.provider_keys import ProviderKeys


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """One model of a provider that is on."""

    id: str
    provider: str
    name: str
    operations: tuple[str, ...] = ()


class Engine:
    """See the module."""

    def __init__(
        self, bus: Bus, settings: Settings, fleet_token: str, telemetry: Telemetry | None = None
    ) -> None:
        self.name = unique_name("edge")
        self.exchanges: dict[str, Exchange] = {}
        self._patience = Patience(settings.limits, settings.timeouts)
        self._loop = asyncio.get_running_loop()
        self._bus = bus
        self._settings = settings
        self._publisher = Publisher(bus, timeout_s=2.0)
        self._recorder = Recorder(self._publisher)
        self._tasks = Tasks()
        self._outlet = Outlet(bus, self._publisher, self.exchanges, self._tasks)
        # What exchanges and links ask of the engine, and the outlet does.
        self.dead_letter = self._outlet.dead_letter
        self.worker_lost = self._outlet.worker_lost
        self.fleet = self._fleet = FleetView(bus, self._resize)
        self._provider_keys = ProviderKeys(settings)
        self._catalog = catalogue = catalog.load(settings.offers)
        self.bill = Bill(catalogue)
        self._health = Health(bus, self._fleet, self.name, self._own)
        self.edge_lives = self._fleet.edge_lives
        self.edge_address = self._fleet.edge_address
        self.router = Router(self._fleet, self._fresh, catalogue, settings.routing, self._health)
        self._delivery = DeliveryServer(self, fleet_token)
        self.serve_beside = self._delivery.serve_beside
        metrics = (telemetry or Telemetry.silent("edge")).metrics
        self._admission = Admission(settings.limits, metrics)
        self.refused = self._admission.refused
        self._aliases: dict[tuple[str, str], str] = {}
        self._random = random.Random()
        self._lease: Lease | None = None
        # What is made of several requests, and may be between two of them.
        self._held: set[object] = set()
        self._draining = False

    # Life.

    async def start(self) -> None:
        """Listen for workers, read the fleet's state and announce this edge."""
        advertise = self._settings.advertise
        if advertise is None:
            port = await self._delivery.start("127.0.0.1", 0)
            address = f"127.0.0.1:{port}"
        else:
            await self._delivery.start("0.0.0.0", advertise.port)
            address = f"{advertise.host or socket.gethostname()}:{advertise.port}"
        await self._publisher.start()
        await self._fleet.start()
        await self._health.start()
        lease = presence.encode(presence.EdgeLease(edge=self.name, address=address))
        self._lease = Lease(
            self._bus, subjects.WORKERS, subjects.edge_key(self.name), lambda: lease
        )
        await self._lease.start()
        self._outlet.start(address)
        self._tasks.keep(self._tick, "tick")

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
        await self._outlet.close()
        await self._tasks.close()
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
        if not self._bus.answers:
            raise InferenceError(
                "broker_unavailable", "the queue is unreachable; retry shortly", retry_after=1
            )
        decision = await self.router.decide(request)
        targets, provider_keys = self._provider_keys.of(
            request.platform, key, provider_key, decision.targets
        )
        plan = dispatch.Plan(targets)
        if alias and (key.owner, alias) in self._aliases:
            raise InferenceError(
                "idempotency_conflict", f"request {alias!r} is running already", param="request_id"
            )
        after_s = hedge_after(request, self._settings.routing)
        exchange = (partial(HedgedExchange, after_s=after_s) if after_s else Exchange)(
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
        exchange.decision, exchange.route = decision, decision.explained
        self.exchanges[request_id] = exchange
        if alias:
            self._aliases[key.owner, alias] = request_id
        try:
            self._enter(exchange, accepted=accepted)
        except InferenceError as exc:
            exchange.close()
            raise exc from None
        if not provider_keys:
            # It may be the one probe of a breaker, so what is refused above must not count.
            self._health.chosen(plan.target)
        return exchange

    def hold(self, whole: object) -> None:
        """Wait for this too when draining, until it is let go."""
        self._held.add(whole)

    def let_go(self, whole: object) -> None:
        """It is over. Idempotent."""
        self._held.discard(whole)

    def cancel(self, request_id: str, owner: str) -> bool:
        """Cancel a running request of this owner by its id or alias."""
        exchange = self.exchanges.get(self._aliases.get((owner, request_id), request_id))
        if exchange is None or exchange.key.owner != owner:
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
        return self._bus.answers and bool(self._fleet.fleet.live) and not self._draining

    def queued(self) -> int:
        """Requests waiting in this edge."""
        return self._admission.waiting()

    def load(self) -> control_service_pb2.GetLoadResponse:
        """Gauges: all of them are back at 0 when nothing runs."""
        running = sum(any(a.session for a in e.attempts) for e in self.exchanges.values())
        queued = self.queued()
        links = {link.worker: link for link in self._delivery.links}
        return control_service_pb2.GetLoadResponse(
            edge=self.name,
            in_flight=len(self.exchanges),
            queued=queued,
            published=self._admission.published(),
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
        attempt.queued = True
        self._admission.of(attempt.target).published += 1
        self._outlet.publish(exchange, attempt)

    def taken(self, attempt: Attempt) -> None:
        """A published attempt lies in the queue no more: a worker has it, or it was refused."""
        if attempt.queued:
            attempt.queued = False
            self._admission.of(attempt.target).taken(self._loop.time())

    def withdraw(self, attempt: Attempt) -> None:
        """Take a superseded or cancelled attempt out of the queue (R2)."""
        self.taken(attempt)
        self._outlet.withdraw(attempt)

    def move(
        self, exchange: Exchange, old: routing.Target, new: routing.Target, *, launched: bool
    ) -> None:
        """An accepted request goes on in another pool, when its key's turn comes there."""
        self._admission.move(exchange, old, new, now=self._loop.time(), launched=launched)

    def hedge(self, target: routing.Target) -> bool:
        """Whether a second attempt may run at `target` now: it then has a place there."""
        live = self._health.state(target.provider, target.model)
        return self._admission.hedge(target, live)

    def hedged(self, free: routing.Target, outcome: str) -> None:
        """How a second attempt went; the place of one of the two is free."""
        self._admission.hedged(free, outcome, self._loop.time())

    def charge(
        self,
        exchange: Exchange,
        attempt: Attempt,
        started: event_pb2.Started | None,
        completed: event_pb2.Completed,
    ) -> None:
        """Record the one charge of an answered request (R16), and tell its cost."""
        target = attempt.target
        cost = self.bill.cost(target.provider, target.model, completed)
        if cost is not None:
            completed.cost.CopyFrom(cost)
        self._admission.answered(target, self._loop.time() - attempt.published_at)
        if exchange.work.platform.tell_routing and exchange.decision is not None:
            byok = target.provider in exchange.provider_keys
            completed.routing = metadata(
                exchange.decision, exchange.plan, attempt.number, route=exchange.route, byok=byok
            )
        if not exchange.provider_keys:
            self._health.worked(target, attempt.published_at)
        self._recorder.charge(
            record_pb2.Charge(
                request_id=exchange.request_id,
                attempt=attempt.number,
                tenant=exchange.key.tenant,
                route=route_of(target),
                answered_model=started.model if started is not None else "",
                usage=completed.usage,
                charged_at_ms=now_ms(),
                tags=exchange.work.platform.tags,
                signature=exchange.work.platform.signature,
                cost=cost,
                key=exchange.key.id,
            )
        )

    def failed(self, exchange: Exchange, attempt: Attempt, error: InferenceError) -> None:
        """A provider failed an attempt: routes of others may avoid it."""
        # A caller's own key tells nothing of ours.
        if not exchange.provider_keys:
            self._health.failed(attempt.target, error, attempt.published_at)

    def resting(self, exchange: Exchange, target: routing.Target) -> bool:
        """Whether `target` is to be left alone; if it was and is no more, this is its probe."""
        if exchange.provider_keys:
            return False
        if self._health.state(target.provider, target.model).resting:
            return True
        self._health.chosen(target)
        return False

    def ended(self, exchange: Exchange) -> None:
        """An exchange is over."""
        if self.exchanges.pop(exchange.request_id, None) is None:
            return
        if exchange.alias:
            self._aliases.pop((exchange.key.owner, exchange.alias), None)
        queue = self._admission.of(exchange.plan.target)
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
            attempt.target,
            exchange.work,
            has_next=exchange.plan.has_next,
            left_ms=exchange.remaining_ms(),
        )

    # Inside.

    def _enter(self, exchange: Exchange, *, accepted: bool) -> None:
        """Let a request in at the first candidate that has room and time for it."""
        while True:
            target = exchange.plan.target
            try:
                self._admission.enter(exchange, target, now=self._loop.time(), accepted=accepted)
            except InferenceError as exc:
                exc.provider, exc.model = target.provider, target.model
                if not exchange.plan.has_next:
                    raise dispatch.told(exchange.plan, exc) from None
                exchange.plan.go_on(error=exc)
            else:
                return

    async def _fresh(self) -> routing.Fleet:
        """Absence is believed after a fresh read, and an open link is presence too (R12)."""
        await self._fleet.refresh()
        fleet = self._fleet.fleet
        live = {provider: dict(pools) for provider, pools in fleet.live.items()}
        for link in self._delivery.links:
            listed = fleet.away.get(link.provider, {}).get(link.pool, frozenset())
            live.setdefault(link.provider, {}).setdefault(link.pool, listed)
        return replace(fleet, live=live)

    def _own(self, provider: str) -> int:
        """Requests of this edge that wait for a provider or run there."""
        return self._admission.work(provider)

    def _resize(self) -> None:
        self._admission.resize(self._fleet.slots, self._fleet.edges, now=self._loop.time())

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(1)
            self._delivery.check()
