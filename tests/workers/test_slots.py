"""Slots are shared by lanes: each leaves some to those that come before it."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from broker.capacity import RESERVE
from workers.gate import Gate
from workers.keys import Keys
from workers.slots import Slots


def slots(count: int) -> Slots:
    gate = Gate(Keys(()), count)
    return Slots(cast("Any", None), count, lambda: None, gate=gate, reserve=RESERVE)


@pytest.mark.parametrize(
    ("count", "rooms"),
    [(64, (64, 61, 60)), (20, (20, 19, 19)), (4, (4, 3, 3)), (2, (2, 1, 1)), (1, (1, 1, 1))],
    ids=str,
)
async def test_each_lane_leaves_room_to_those_before_it_and_none_is_shut_out(
    count: int, rooms: tuple[int, ...]
) -> None:
    shared = slots(count)
    assert tuple(shared.room(lane) for lane in ("int", "bg", "bat")) == rooms


async def test_those_that_run_alone_take_turns_and_wait_for_what_runs() -> None:
    shared, running, seen = slots(8), 0, []
    go_on = asyncio.Event()

    async def ordinary() -> None:
        nonlocal running
        running += 1
        await go_on.wait()
        running -= 1

    async def suspect() -> None:
        nonlocal running
        async with shared.alone():
            running += 1
            seen.append(running)
            await asyncio.sleep(0)
            running -= 1

    tasks = [shared.occupy(work(), "x") for work in (ordinary, suspect, suspect, suspect)]
    await asyncio.sleep(0.01)
    assert (seen, shared.reserved, shared.open) == ([], True, False)
    go_on.set()
    await asyncio.wait_for(asyncio.gather(*tasks), 5)
    assert seen == [1, 1, 1]
    await asyncio.sleep(0)
    assert (shared.busy, shared.reserved, shared.open) == (0, False, True)
