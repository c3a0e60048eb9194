"""How every process of Millrace starts and ends: settings, logs, the bus, signals, exit codes."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
import sys
import uuid
from collections.abc import Awaitable, Callable

import uvloop

from broker import telemetry
from broker.bus import Bus, BusError, connect
from broker.config import ConfigError, Settings, load_settings
from broker.metrics_server import serve_metrics
from broker.telemetry import Telemetry

_log = logging.getLogger(__name__)

Body = Callable[[Settings, Bus, Telemetry, asyncio.Event], Awaitable[None]]


def unique_name(*kind: str) -> str:
    """A name for one life of a process, such as `edge-host-0f3a91c2`."""
    return "-".join((*kind, socket.gethostname(), uuid.uuid4().hex[:8]))


def run(role: str, body: Body) -> int:
    """Run `body` until it returns; SIGTERM and SIGINT set its event. Returns the exit code.

    0 done, 1 something outside is wrong (one line on stderr says what to do), 2 bad settings.
    """
    try:
        settings = load_settings()
    except ConfigError as exc:
        print(f"millrace {role}: {exc}", file=sys.stderr)  # noqa: T201
        return 2
    gauges = telemetry.start(settings.log, role)
    # What was imported stays: collections need not walk it, and may come less often (they took
    # 5 % of a busy worker).
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    try:
        uvloop.run(_main(role, body, settings, gauges))
    except (BusError, OSError) as exc:
        _log.error("%s", exc)
        return 1
    finally:
        logging.shutdown()
    return 0


async def _main(role: str, body: Body, settings: Settings, gauges: Telemetry) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    bus = await connect(settings.nats, name=f"{role}-{settings.data.name}")
    try:
        await bus.check_server()
        server = None
        if settings.metrics is not None and role != "edge":
            server = await serve_metrics(gauges.metrics, settings.metrics)
        await body(settings, bus, gauges, stop)
        if server is not None:
            server.close()
    finally:
        await bus.close()
