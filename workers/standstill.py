"""Notices that this process stood still: it was stopped, swapped out, or its machine slept.

A limit of time that ran out meanwhile tells nothing of the provider.
"""

from __future__ import annotations

import asyncio
from collections import deque

# Looks follow one another after so many seconds; one that is late by so many was held up.
_LOOK_S = 0.5
_LATE_S = 1.0
_REMEMBERED = 16


class Standstill:
    """See the module. Times are seconds of the loop's clock."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._seen: deque[tuple[float, float]] = deque(maxlen=_REMEMBERED)
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Look from now on."""
        self._due = self._loop.time() + _LOOK_S
        # A callback, for it runs before the tasks that were woken with it.
        self._timer = self._loop.call_at(self._due, self._look)

    def close(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def since(self, begun: float) -> float:
        """How many seconds it stood still since `begun`."""
        now = self._loop.time()
        # The look that would tell may be due itself.
        late = max(now - self._due, 0.0) if self._timer is not None else 0.0
        held = [length for ended, length in self._seen if ended > begun]
        return sum(held) + (late if late > _LATE_S else 0.0)

    def _look(self) -> None:
        now = self._loop.time()
        if now - self._due > _LATE_S:
            self._seen.append((now, now - self._due))
        self.start()
