"""Waits for what tells by a callback that it is done."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable


async def called(begin: Callable[[Callable[[], None]], Awaitable[None] | None]) -> None:
    """Begin something with a callback, and wait until that is called.

    It may be called from within, more than once, and when nobody waits any more.
    """
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def done() -> None:
        if not future.done():
            future.set_result(None)

    if (begun := begin(done)) is not None:
        await begun
    await future
