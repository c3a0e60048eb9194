"""Leads the capacity of the fleet while no other broker process does: a tick each second.

Another one takes over within seconds; what was allowed last holds until then.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from functools import partial

from broker import subjects
from broker.allocator import Allocator
from broker.bus import Bus
from broker.bus.capacity import Allowances, allow, hear, show_standings
from broker.bus.leadership import Leadership
from broker.bus.mirror import Mirror
from broker.bus.survey import workers_in
from broker.capacity import FORGET_S, Allowance, Member, Report
from broker.config import Settings
from broker.process import unique_name
from broker.standing import Standing
from broker.telemetry import Metrics

_log = logging.getLogger(__name__)

TICK_S = 1.0
# Between ticks that only divide anew, as something happened.
_SOON_S = 0.1
# What stays the same is written again, or it would be forgotten.
_RENEW_S = FORGET_S / 2
_AT_ONCE = 32


class CapacityLeader:
    """See the module; `workers` mirrors their leases."""

    def __init__(self, bus: Bus, settings: Settings, workers: Mirror) -> None:
        self._bus = bus
        self._reserve = settings.capacity.interactive_reserve
        self._workers = workers
        self._allowances = Allowances(bus)
        name = unique_name()
        self._leadership = Leadership(bus, subjects.CAPACITY, subjects.LEADER, name, self._lead)
        self.leading = False
        self._allocator: Allocator | None = None
        self._written: dict[tuple[str, str, str], float] = {}
        self._news = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._ends: list[Callable[[], Awaitable[None]]] = []

    async def start(self) -> None:
        """Stand for leader."""
        await self._allowances.start()
        self._ends = [
            await hear(self._bus, self._heard),
            await show_standings(self._bus, self._standings),
        ]
        self._leadership.start()

    async def close(self) -> None:
        """Let another one lead."""
        await self._leadership.close()
        for stop in self._ends:
            if self._bus.connected:
                await stop()
        await self._allowances.close()

    def show(self, metrics: Metrics) -> None:
        """Have the numbers shown: by the leader alone."""
        metrics.gauge("capacity_leader", "Whether this process leads.", lambda: float(self.leading))
        for name, text in _GAUGES.items():
            metrics.gauge(
                f"capacity_{name}",
                text,
                partial(self._read, name),
                *("provider", "key", "model"),
            )

    def _read(self, name: str) -> dict[tuple[str, ...], float]:
        return {
            one.place: value
            for one in self._standings() or ()
            if (value := getattr(one, name)) is not None
        }

    def _heard(self, report: Report) -> None:
        if self._allocator is not None:
            self._allocator.take(report, self._loop.time())
            if any(seen.limited or seen.rest_s or seen.waiting for seen in report.seen):
                self._news.set()

    async def _lead(self) -> None:
        """Tick each second, and divide anew in between when something happened."""
        known = self._allowances.all()
        self.leading = True
        self._allocator = Allocator(1 + max((one.epoch for one in known), default=0))
        self._allocator.recall(known, self._loop.time())
        self._written.clear()
        try:
            if known:  # what was allowed holds until it is known who wants what
                await asyncio.sleep(TICK_S)
            due = self._loop.time()
            while True:
                whole = self._loop.time() >= due
                if whole:
                    due = max(due + TICK_S, self._loop.time() + TICK_S / 2)
                await self._tick(self._allocator, adapt=whole)
                self._news.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(due):
                        await asyncio.sleep(_SOON_S)
                        await self._news.wait()
        finally:
            self._allocator = None
            self.leading = False

    def _standings(self) -> list[Standing] | None:
        if self._allocator is None:
            return None
        return self._allocator.standings(self._loop.time())

    async def _tick(self, allocator: Allocator, *, adapt: bool) -> None:
        now = self._loop.time()
        changed = allocator.tick(self._members(), now, reserve=self._reserve, adapt=adapt)
        places = {allowance.place for allowance in changed}
        for allowance in allocator.allowances():
            if allowance.place not in places and (
                now - self._written.get(allowance.place, now - _RENEW_S) >= _RENEW_S
            ):
                changed.append(allowance)
        for at in range(0, len(changed), _AT_ONCE):
            await asyncio.gather(*(self._write(one) for one in changed[at : at + _AT_ONCE]))

    async def _write(self, allowance: Allowance) -> None:
        self._written[allowance.place] = self._loop.time()
        if not await allow(self._bus, allowance):
            self._written.pop(allowance.place, None)

    def _members(self) -> list[Member]:
        return [
            Member(lease.worker, lease.provider, lease.slots, lease.keys, lease.limits)
            for lease in workers_in(self._workers)
        ]


_GAUGES = {
    "slots": "Calls at a time that a key and model is believed to allow.",
    "rate": "Calls per second that a key and model is believed to allow.",
    "tokens": "Tokens per second that a key and model is believed to allow.",
    "rest_s": "Seconds that a key and model is to be left alone for.",
    "running": "Calls to a key and model that are under way.",
    "limited": "Calls to a key and model that were answered 429 since this process leads.",
}
