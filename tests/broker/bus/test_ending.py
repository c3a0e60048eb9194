"""A task ends though it lost its first cancellation, and who listens leaves however it is."""

from __future__ import annotations

import asyncio
import contextlib

from broker.bus import Bus, capacity, delays
from broker.bus.background import hear_cancelled
from broker.bus.ending import end
from broker.bus.jobs import serve_direct


async def test_a_task_that_swallows_a_cancellation_is_cancelled_again() -> None:
    lost = []

    async def stubborn() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        lost.append(1)
        await asyncio.sleep(60)

    task = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await end(task)
    assert task.cancelled()
    assert lost == [1]


async def test_a_task_that_failed_is_left_as_it_is() -> None:
    async def failing() -> None:
        raise ValueError

    task = asyncio.create_task(failing())
    await asyncio.wait((task,))
    await end(task)
    assert isinstance(task.exception(), ValueError)


async def test_who_listens_can_leave_when_the_connection_is_closed_and_twice(bus: Bus) -> None:
    leave = [
        await delays.hear(bus, lambda _batch, _delay: None),
        await capacity.hear(bus, lambda _report: None),
        await capacity.show_standings(bus, list),
        await hear_cancelled(bus, "sim", "main", lambda _response: None),
        await serve_direct(bus, "sim", "main", lambda _job: False),
    ]
    await leave[0]()
    await bus.close()
    for one in leave:
        await one()
