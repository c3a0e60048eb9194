"""What a process makes of the leases that it mirrors."""

from __future__ import annotations

from typing import Any

from broker import presence
from broker.fleet import UNKNOWN, FleetView
from broker.presence import Pace, WorkerLease


def say(view: FleetView, lease: WorkerLease) -> None:
    """As the mirror does it."""
    key, value = f"w.{lease.provider}.{lease.worker}", presence.encode(lease)
    view._leases.entries[key] = value
    view._changed(key, value)


def a_view() -> FleetView:
    bus: Any = None
    return FleetView(bus, lambda: None)


async def test_load_is_the_same_at_every_look_while_no_pace_is_known() -> None:
    view = a_view()
    say(view, WorkerLease("w1", "sim", "main", 64, ("m",), busy=3))
    for _ in range(3):
        assert view.pace("sim", "m") == UNKNOWN
        assert view.load("sim") == (3, 64)


async def test_load_and_pace_are_of_all_workers_and_follow_their_leases() -> None:
    view, quick, slow = a_view(), Pace(100.0, 5.0, 200.0), Pace(900.0, 9.0, 90.0)
    say(view, WorkerLease("w1", "sim", "main", 64, ("m",), busy=3, paces={"m": quick}))
    say(view, WorkerLease("w2", "sim", "main", 16, ("m",), busy=5, paces={"m": slow}))
    assert (view.load("sim"), view.pace("sim", "m")) == ((8, 80), slow)
    say(view, WorkerLease("w2", "sim", "main", 16, ("m",), busy=0))
    assert (view.load("sim"), view.pace("sim", "m")) == ((3, 80), quick)
