"""The edge's engine: admits requests and publishes their attempts.

What happens to one request is `exchange`'s story; this is what all of them share: the fair
queues, the publisher, the delivery server, the fleet's state and the records.
"""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Sequence
from dataclasses import replace
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
from broker.v1 import (
    control_service_pb2,
    delivery_service_pb2,
    generation_pb2,
)
from edge import report
from edge.admission import Admission
from edge.attempt import Attempt
from edge.books import Books
from edge.delivery import DeliveryServer
from edge.exchange import Exchange
from edge.hedged import HedgedExchange, hedge_after
from edge.outlet import Outlet
from edge.patience import Patience
from edge.provider_keys import ProviderKeys
from edge.register import Register


class Engine:
    """See the module."""

    def __init__(
        self, bus: Bus, settings: Settings, fleet_token: str, telemetry: Telemetry | None = None
    ) -> None:
        self.name = unique_name("edge")
        self._register = Register()
        self.exchanges = self._register.exchanges
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
        books = Books(self.bill, self._recorder, self._health, self._admission)
        # What exchanges ask of the engine, and the books do.
        self.charge, self.failed, self.resting = books.charge, books.failed, books.resting
        self._accepted = books.accepted
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
        self._register.require_free(key.owner, alias)
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
        self._register.add(exchange)
        try:
            self._enter(exchange, accepted=accepted)
        except InferenceError as exc:
            exchange.close()
            raise exc from None
        self._accepted(exchange)  # what is refused above must not count
        return exchange

    def hold(self, whole: object) -> None:
        """Wait for this too when draining, until it is let go."""
        self._held.add(whole)

    def let_go(self, whole: object) -> None:
        """It is over. Idempotent."""
        self._held.discard(whole)

    def cancel(self, request_id: str, owner: str) -> bool:
        """Cancel a running request of this owner by its id or alias."""
        exchange = self._register.find(owner, request_id)
        if exchange is not None:
            exchange.cancel()
        return exchange is not None

    async def decide(self, request: generation_pb2.Request) -> routing.Decision:
        """Where a request would go. Raises `InferenceError`."""
        return await self.router.explain(request)

    def models(self) -> list[report.ModelInfo]:
        """The models that workers list."""
        return report.models(self._fleet, self._catalog)

    def near(self, model: str) -> list[str]:
        """Ids that look like `model`."""
        return routing.near(model, self._fleet.fleet)

    def ready(self) -> bool:
        """Whether a request would be served."""
        return self._bus.answers and bool(self._fleet.fleet.live) and not self._draining

    def load(self) -> control_service_pb2.GetLoadResponse:
        """Gauges: all of them are back at 0 when nothing runs."""
        running = self.exchanges.values()
        return report.load(self.name, running, self._admission, self._delivery.links, self._fleet)

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

    def ended(self, exchange: Exchange) -> None:
        """An exchange is over."""
        if not self._register.remove(exchange):
            return
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
