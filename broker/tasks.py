"""Tasks that somebody owns: their failures are logged, and all are ended together."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine

_log = logging.getLogger(__name__)


class Tasks:
    """See the module."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()

    def spawn(self, work: Coroutine[None, None, None], name: str) -> None:
        """Run `work` from now on."""
        task = asyncio.create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._finished)

    async def close(self, wait_s: float = 0.0) -> None:
        """Cancel what runs, and wait for its end; `wait_s` is what it has to come to it itself."""
        running = list(self._running)
        if running and wait_s:
            await asyncio.wait(running, timeout=wait_s)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        with contextlib.suppress(asyncio.CancelledError):
            if (exc := task.exception()) is not None:
                _log.error("task %s failed", task.get_name(), exc_info=exc)
