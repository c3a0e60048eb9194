"""What callers keep here, responses, files and batches, made once for both front ends."""

from __future__ import annotations

from dataclasses import dataclass

from broker.batching.routes import Routes
from broker.bus import Bus
from broker.config import Settings
from edge.batches.estimate import Estimating
from edge.batches.service import BatchService
from edge.capacity import Capacity
from edge.engine import Engine
from edge.files import FileService
from edge.hosted import HostedTools
from edge.responses.service import ResponseService
from edge.uploads import UploadService


@dataclass(frozen=True, slots=True)
class Kept:
    """See the module."""

    responses: ResponseService
    files: FileService
    uploads: UploadService
    batches: BatchService
    estimating: Estimating
    capacity: Capacity

    @classmethod
    def of(cls, bus: Bus, engine: Engine, settings: Settings) -> Kept:
        """All of it, of an edge."""
        tools = HostedTools(engine, settings)
        files = FileService(bus, engine)
        capacity = Capacity(bus)
        return cls(
            ResponseService(bus, engine.router, settings.limits, tools),
            files,
            UploadService(bus, files),
            BatchService(bus, files.files),
            Estimating(files.files, Routes(engine.router), engine.bill, engine.fleet, capacity),
            capacity,
        )
