"""`python -m broker`: one broker process. Several may run; everything it does is idempotent."""

from __future__ import annotations

import asyncio
import sys
from functools import partial

from broker import process
from broker.batching.leader import Batching
from broker.bus import Bus
from broker.bus.ending import end
from broker.bus.leftovers import keep_swept
from broker.config import Settings
from broker.controller import Controller
from broker.leader import CapacityLeader
from broker.tasks import keep
from broker.telemetry import Telemetry


async def _body(settings: Settings, bus: Bus, telemetry: Telemetry, stop: asyncio.Event) -> None:
    controller = Controller(bus, settings)
    batching = Batching(bus, settings)
    await controller.start()
    capacity = CapacityLeader(bus, settings, controller.leases)
    batching.start()
    batching.show(telemetry.metrics)
    if settings.capacity.shared:
        await capacity.start()
        capacity.show(telemetry.metrics)
    sweeping = keep(partial(keep_swept, bus), "leftovers")
    try:
        await stop.wait()
    finally:
        await end(sweeping)
        await batching.close()
        await capacity.close()
        await controller.close()


if __name__ == "__main__":
    sys.exit(process.run("broker", _body))
