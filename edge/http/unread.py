"""What a client has not read yet: it counts as held, and who reads nothing of it is cut off."""

from __future__ import annotations

import asyncio
import logging

from edge.held import Held

_log = logging.getLogger(__name__)


class Unread:
    """The bytes that one connection holds back for its client, from `begin` to `end`."""

    __slots__ = ("_held", "_loop", "_patience_s", "_size", "_timer", "_transport")

    def __init__(
        self,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        held: Held,
        patience_s: float,
    ) -> None:
        self._transport = transport
        self._loop = loop
        self._held = held
        self._patience_s = patience_s
        self._size = 0
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """Some of an answer is not read: give its client time for it. Idempotent."""
        size = self._transport.get_write_buffer_size()
        if self._timer is None and size:
            self._count(size)
            self._timer = self._loop.call_later(self._patience_s, self._look)

    def end(self) -> None:
        """It is read, or nobody is there to read it. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._count(0)

    def _look(self) -> None:
        before, left = self._size, self._transport.get_write_buffer_size()
        self._timer = None
        self._count(0)
        if left < before:
            self.begin()
            return
        _log.info("dropped a client that did not read for %g s", self._patience_s)
        self._transport.abort()

    def _count(self, size: int) -> None:
        self._held.hold(size - self._size)
        self._size = size
