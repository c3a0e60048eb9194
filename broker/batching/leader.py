"""The part of a broker process that runs batches: one process leads, the others stand by."""

from __future__ import annotations

from functools import partial

from broker import routing, subjects
from broker.batch import webhooks
from broker.batching.engine import Engine
from broker.batching.routes import Routes
from broker.batching.services import Pace, Services
from broker.batching.telling import Telling
from broker.bus import Bus
from broker.bus.batches import Batches
from broker.bus.files import Files
from broker.bus.leadership import Leadership
from broker.bus.outcome import Outcomes
from broker.bus.queue import Publisher
from broker.bus.recorder import Recorder
from broker.bus.responses import Blobs
from broker.bus.results import Results
from broker.catalog import catalog
from broker.catalog.bill import Bill
from broker.config import Settings
from broker.fleet import FleetView
from broker.health import Health
from broker.process import unique_name
from broker.router import Router
from broker.telemetry import Metrics

_KEY = "leader.batches"


class Batching:
    """See the module."""

    def __init__(self, bus: Bus, settings: Settings, pace: Pace | None = None) -> None:
        self._bus = bus
        self._settings = settings
        self._pace = pace or Pace()
        self._name = unique_name()
        self._engine: Engine | None = None
        self._leadership = Leadership(bus, subjects.CAPACITY, _KEY, self._name, self._lead)

    def start(self) -> None:
        """Lead as soon as nobody else does."""
        self._leadership.start()

    def show(self, metrics: Metrics) -> None:
        """Have the batches that this process runs among its numbers."""
        metrics.gauge(
            "batches",
            "Batches that this process runs, by state.",
            lambda: self._engine.batches() if self._engine is not None else {},
            "status",
        )
        metrics.gauge(
            "batch_lines",
            "Lines of the batches that run: all, published, and with a result.",
            lambda: self._engine.lines() if self._engine is not None else {},
            "which",
        )

    async def close(self) -> None:
        """Step down; what was not written down is done again by the next one."""
        await self._leadership.close()

    async def _lead(self) -> None:
        """While this process leads it follows the fleet; no other has to."""
        bus, settings = self._bus, self._settings
        publisher = Publisher(bus, timeout_s=2.0)
        recorder = Recorder(publisher)
        blobs = Blobs(bus)
        outcomes = Outcomes(bus, publisher, blobs)
        fleet = FleetView(bus, _nothing)
        health = Health(bus, fleet, f"broker-{self._name}", _none, probes=False)

        async def fresh() -> routing.Fleet:
            await fleet.refresh()
            return fleet.fleet

        telling = Telling(settings.webhooks, webhooks.WAITS_S)
        catalogue = catalog.load(settings.offers)
        router = Router(fleet, fresh, catalogue, settings.routing, health)
        services = Services(
            bus=bus,
            batches=Batches(bus),
            files=Files(bus),
            results=Results(bus),
            outcomes=outcomes,
            blobs=blobs,
            recorder=recorder,
            routes=Routes(router),
            slots=partial(_slots, fleet),
            pace=self._pace,
            has_batches=fleet.has_batches,
            priced=Bill(catalogue).priced,
        )
        await publisher.start()
        try:
            await fleet.start()
            await health.start()
            self._engine = Engine(services, telling)
            await self._engine.lead()
        finally:
            self._engine = None
            await telling.close()
            await outcomes.close()
            await recorder.close()
            await health.close()
            await fleet.close()
            await publisher.close()


def _slots(fleet: FleetView, subject: str) -> int:
    """How many calls the pool of a subject makes at a time."""
    _, _, provider, pool, _ = subject.split(".")
    return sum(
        slots
        for (of, its), slots in fleet.slots.items()
        if (subjects.token(of), subjects.token(its)) == (provider, pool)
    )


def _nothing() -> None:
    """Nobody waits for changes of the fleet."""


def _none(_provider: str) -> int:
    """Calls of this process's own at a provider."""
    return 0
