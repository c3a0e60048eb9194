"""A task ends though it lost its first cancellation."""

from __future__ import annotations

import asyncio
import contextlib

from broker.bus.ending import end


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
