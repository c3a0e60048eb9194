"""What an edge says of itself: the models that can be asked for, and what it has to do."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from broker.catalog.catalog import Catalog
from broker.fleet import FleetView
from broker.v1 import control_service_pb2
from edge.admission import Admission
from edge.delivery import Link
from edge.exchange import Exchange


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """One model of a provider that is on."""

    id: str
    provider: str
    name: str
    operations: tuple[str, ...] = ()


def models(fleet: FleetView, catalog: Catalog) -> list[ModelInfo]:
    """The models that workers list."""
    known = catalog.operations
    return [ModelInfo(f"{p}/{m}", p, m, known(p, m)) for p, m in fleet.fleet.models()]


def load(
    name: str,
    exchanges: Collection[Exchange],
    admission: Admission,
    links: Iterable[Link],
    fleet: FleetView,
) -> control_service_pb2.GetLoadResponse:
    """Gauges of the edge of this name: all of them are back at 0 when nothing runs."""
    linked = {link.worker: link for link in links}
    return control_service_pb2.GetLoadResponse(
        edge=name,
        in_flight=len(exchanges),
        queued=admission.waiting(),
        published=admission.published(),
        running=sum(any(a.session for a in e.attempts) for e in exchanges),
        tasks=len(asyncio.all_tasks()),
        workers=[
            control_service_pb2.WorkerLoad(
                worker=lease.worker,
                provider=lease.provider,
                pool=lease.pool,
                slots=lease.slots,
                sessions=len(linked[lease.worker].sessions) if lease.worker in linked else 0,
                gauges=linked[lease.worker].gauges if lease.worker in linked else None,
            )
            for lease in fleet.workers.values()
        ],
    )
