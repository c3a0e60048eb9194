"""Tasks that must not die unseen: they tell of it, and what has to go on begins anew."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine

_log = logging.getLogger(__name__)

# Between the death of what is kept and its next life.
_AGAIN_S = 1.0

Work = Coroutine[object, object, None]


def keep(work: Callable[[], Work], name: str) -> asyncio.Task[None]:
    """A task that runs `work()`, and runs it again whenever that fails; the caller ends it."""
    return asyncio.create_task(_kept(work, name), name=name)


async def _kept(work: Callable[[], Work], name: str) -> None:
    while True:
        try:
            return await work()
        except Exception:  # noqa: BLE001  a bug in it must not stop what depends on it
            _log.exception("task %s failed; it begins anew", name)
        await asyncio.sleep(_AGAIN_S)


class Tasks:
    """Tasks of one owner: all are ended together."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._running)

    def spawn(self, work: Work, name: str) -> None:
        """Run `work` from now on."""
        task = asyncio.create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._finished)

    def keep(self, work: Callable[[], Work], name: str) -> None:
        """Run `work()` from now on, and again whenever that fails."""
        self.spawn(_kept(work, name), name)

    async def settle(self, wait_s: float | None = None) -> None:
        """Wait for the end of what runs now, for `wait_s` at most."""
        if self._running:
            await asyncio.wait(list(self._running), timeout=wait_s)

    def cancel(self) -> None:
        """Have what runs end soon."""
        for task in self._running:
            task.cancel()

    async def close(self, wait_s: float = 0.0) -> None:
        """Cancel what runs, and wait for its end; `wait_s` is what it has to come to it itself."""
        if wait_s:
            await self.settle(wait_s)
        self.cancel()
        await self.settle()

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        with contextlib.suppress(asyncio.CancelledError):
            if (exc := task.exception()) is not None:
                _log.error("task %s failed", task.get_name(), exc_info=exc)
