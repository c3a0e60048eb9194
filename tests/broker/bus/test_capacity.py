"""Who asks how the places stand is answered by the leader, or from what was allowed last."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

import pytest

from broker.bus import Bus
from broker.bus.capacity import allow, read_standings, show_standings
from broker.capacity import Allowance, Share
from broker.standing import Standing


@dataclass
class Leader:
    """A broker process, which knows something while it leads."""

    known: list[Standing] | None = None

    def tell(self) -> list[Standing] | None:
        return self.known


async def test_the_leader_is_asked_and_without_one_what_was_allowed_holds(bus: Bus) -> None:
    told = Allowance("p", "k", "m", 3, slots=12, why="found", shares={"a": Share(slots=12)})
    assert await allow(bus, told)
    last = Standing("p", "k", "m", 12, why="found", shares=told.shares)
    assert await read_standings(bus) == [last]
    leader, other = Leader([Standing("p", "k", "m", 13, running=9, limited=4)]), Leader()
    for one in (other, leader):
        await show_standings(bus, one.tell)
    assert await asyncio.gather(*(read_standings(bus) for _ in range(20))) == [leader.known] * 20
    leader.known = None
    assert await read_standings(bus) == [last]


async def test_of_more_places_than_fit_those_are_told_that_come_first(
    bus: Bus, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    known = [Standing("p", "k" * 40, f"m{n}" * 20, running=1) for n in range(20_000)]
    await show_standings(bus, lambda: known)
    found = await read_standings(bus)
    assert 1000 < len(found) < len(known)
    assert found == known[: len(found)]
    assert f"of 20000 places {len(found)} are told" in caplog.text
