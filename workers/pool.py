"""Connections to providers that are open, in use or kept for the next request."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import deque
from typing import NamedTuple

from workers.connection import TICK, Connection

_CLOSING_ROUNDS = 10


class Origin(NamedTuple):
    """Where a connection leads."""

    scheme: str
    host: str
    port: int


class Pool:
    """Connections by origin; the one used last is used first, so that the others can expire."""

    def __init__(self, limit: int, keepalive_s: float) -> None:
        self._limit = limit
        self._keepalive_s = keepalive_s
        self._idle: dict[Origin, list[Connection]] = {}
        self._origins: dict[Connection, Origin] = {}
        self._opening = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._sweep: asyncio.TimerHandle | None = None

    def take(self, origin: Origin) -> Connection | None:
        """A kept connection."""
        idle = self._idle.get(origin)
        while idle:
            connection = idle.pop()
            if connection.usable:
                return connection
        return None

    async def room(self, origin: Origin) -> Connection | None:
        """Wait until there is a kept connection, or room for a new one."""
        while len(self._origins) + self._opening >= self._limit:
            connection = self.take(origin)
            if connection is not None:
                return connection
            if self._close_oldest():
                break
            waiter = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            try:
                await waiter
            except BaseException:
                if not waiter.cancelled():
                    self._let_in()  # it was this one's turn
                raise
            finally:
                with contextlib.suppress(ValueError):
                    self._waiting.remove(waiter)
        self._opening += 1
        return None

    def opened(self, connection: Connection, origin: Origin) -> None:
        """What `room` allowed is there."""
        self._opening -= 1
        self._origins[connection] = origin

    def not_opened(self) -> None:
        """What `room` allowed could not be made."""
        self._opening -= 1
        self._let_in()

    def release(self, connection: Connection) -> None:
        """The request is over."""
        origin = self._origins.get(connection)
        if connection.release() and origin is not None:
            loop = asyncio.get_running_loop()
            connection.idle_since = loop.time()
            self._idle.setdefault(origin, []).append(connection)
            if self._sweep is None:
                self._sweep = loop.call_later(self._keepalive_s, self._expire, loop)
            self._let_in()

    def gone(self, connection: Connection) -> None:
        """The connection is lost."""
        origin = self._origins.pop(connection, None)
        if origin is not None:
            with contextlib.suppress(ValueError):
                self._idle.get(origin, []).remove(connection)
            self._let_in()

    def drop_idle(self) -> None:
        """Close what is not in use."""
        idle, self._idle = self._idle, {}
        for connections in idle.values():
            for connection in connections:
                connection.abort()

    async def close(self) -> None:
        """Close everything, and tell who waits for an answer."""
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        for connection in list(self._origins):
            connection.cut()
        # Aborted connections are closed by the loop's next rounds.
        for _ in range(_CLOSING_ROUNDS):
            if not self._origins:
                break
            await asyncio.sleep(0)

    def _let_in(self) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    def _close_oldest(self) -> bool:
        """Make room at the cost of another origin."""
        for idle in self._idle.values():
            if idle:
                connection = idle.pop(0)
                del self._origins[connection]
                connection.abort()
                return True
        return False

    def _expire(self, loop: asyncio.AbstractEventLoop) -> None:
        self._sweep = None
        before = loop.time() + TICK - self._keepalive_s
        oldest = math.inf
        for origin, idle in self._idle.items():
            for connection in idle:
                if connection.idle_since <= before:
                    connection.abort()
            kept = [connection for connection in idle if connection.idle_since > before]
            self._idle[origin] = kept
            if kept:
                oldest = min(oldest, kept[0].idle_since)
        if oldest < math.inf:
            self._sweep = loop.call_at(oldest + self._keepalive_s, self._expire, loop)
