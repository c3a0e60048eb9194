"""`python -m workers PROVIDER...`: one worker process for one or more providers that are on."""

from __future__ import annotations

import asyncio
import sys
from functools import partial

from broker import process
from broker.bus import Bus, BusError
from broker.bus.fleet import fleet_token
from broker.catalog import catalog
from broker.catalog.bill import Bill
from broker.config import Settings
from broker.telemetry import Telemetry
from workers.fetch import Fetcher
from workers.registry import ProviderError, load
from workers.runner import Runner

_GAUGES = {
    "busy": "Slots in use.",
    "held": "Jobs taken from the queue and not yet acked.",
    "calls": "Upstream calls that are open.",
    "records": "Attempt records not yet stored.",
}


def _read(runners: list[Runner], name: str) -> dict[tuple[str, ...], float]:
    return {(runner.name,): getattr(runner.gauges(), name) for runner in runners}


async def _body(settings: Settings, bus: Bus, telemetry: Telemetry, stop: asyncio.Event) -> None:
    runners = []
    token = await fleet_token(bus, settings)
    fetcher = Fetcher(settings.fetch)
    bill = Bill(catalog.load(settings.offers))
    for name in sys.argv[1:]:
        chosen = settings.providers.get(name)
        if chosen is None:
            why = settings.providers_off.get(name, f"set {name.upper()}_API_KEY")
            raise BusError(f"provider {name!r} is not on: {why}")
        try:
            provider = load(chosen)
        except ProviderError as exc:
            raise BusError(str(exc)) from exc
        runners.append(
            Runner(
                bus,
                provider,
                chosen,
                token,
                fetcher=fetcher,
                limits=settings.limits,
                timeouts=settings.timeouts,
                capacity=settings.capacity,
                bill=bill,
            )
        )
    for runner in runners:
        await runner.start()
    for name in ("busy", "held", "calls", "records"):
        telemetry.metrics.gauge(
            name,
            _GAUGES[name],
            partial(_read, runners, name),
            "worker",
        )
    telemetry.metrics.gauge(
        "capacity_waiting",
        "Jobs that wait here for an allowance.",
        lambda: {(runner.name,): float(runner.gate.waiting()) for runner in runners},
        "worker",
    )
    await stop.wait()
    grace = settings.limits.drain_grace_s
    await asyncio.gather(*(runner.drain(grace) for runner in runners))
    await asyncio.gather(*(runner.close() for runner in runners))
    await fetcher.close()


def main() -> int:
    """Run until told to stop; returns the exit code."""
    if not sys.argv[1:]:
        sys.stderr.write("usage: python -m workers PROVIDER...\n")
        return 2
    return process.run("worker", _body)


if __name__ == "__main__":
    sys.exit(main())
