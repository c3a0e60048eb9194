"""Ends tasks and subscriptions for certain."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError

# How long a task may take to end before it is cancelled again.
_AGAIN_S = 0.5


async def end(task: asyncio.Task[Any]) -> None:
    """Cancel `task` and return when it has ended, however it did.

    One cancellation may be lost: `asyncio.wait_for`, which nats-py waits with, takes a result that
    comes at the same moment instead (Python 3.11).
    """
    while not task.done():
        task.cancel()
        await asyncio.wait((task,), timeout=_AGAIN_S)


def leaving(subscription: Subscription) -> Callable[[], Awaitable[None]]:
    """What ends a subscription; it never raises: with its connection a subscription is gone."""

    async def leave() -> None:
        with contextlib.suppress(NatsError):
            await subscription.unsubscribe()

    return leave
