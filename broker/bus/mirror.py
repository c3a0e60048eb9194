"""A bucket mirrored in memory: read without a round trip, told of every change."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from nats.errors import Error as NatsError
from nats.js.errors import Error as JetStreamError
from nats.js.kv import KeyValue

from broker.bus.connection import Bus

_log = logging.getLogger(__name__)

# A watcher can go blind for many seconds when its server was killed, so all keys are read again.
_REREAD_S = 30.0
_GONE = ("DEL", "PURGE")


class Mirror:
    """`entries` follows the bucket; `on_change(key, value or None)` is called for each change."""

    def __init__(
        self, bus: Bus, bucket: str, on_change: Callable[[str, bytes | None], None] | None = None
    ) -> None:
        self.entries: dict[str, bytes] = {}
        self._bus = bus
        self._bucket = bucket
        self._on_change = on_change
        self._restart = asyncio.Event()
        self._loaded = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Return once all present keys were read."""
        await self._bus.kv(self._bucket)
        self._bus.on_reconnect(self._restart.set)
        self._task = asyncio.create_task(self._follow(), name=f"mirror {self._bucket}")
        await asyncio.wait_for(self._loaded.wait(), 15)

    async def refresh(self) -> None:
        """Read everything again now (R12: absence is believed only after a fresh read)."""
        self._loaded.clear()
        self._restart.set()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._loaded.wait(), 2)

    async def close(self) -> None:
        """Stop following."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _follow(self) -> None:
        while True:
            try:
                await self._watch_once()
            except (NatsError, JetStreamError, TimeoutError) as exc:
                _log.warning("watching %s failed: %s; trying again", self._bucket, exc)
                await asyncio.sleep(0.5)

    async def _watch_once(self) -> None:
        """One watcher, until it is time to read everything again."""
        self._restart.clear()
        watcher = await (await self._bus.kv(self._bucket)).watchall()
        loop = asyncio.get_running_loop()
        until = loop.time() + _REREAD_S
        fresh: dict[str, bytes] | None = {}
        restart = asyncio.ensure_future(self._restart.wait())
        try:
            while (left := until - loop.time()) > 0:
                step = asyncio.ensure_future(watcher._updates.get())
                await asyncio.wait(
                    (step, restart), timeout=left, return_when=asyncio.FIRST_COMPLETED
                )
                if not step.done():
                    step.cancel()
                    return
                entry = step.result()
                if not isinstance(entry, KeyValue.Entry):  # the snapshot is whole
                    self._replace(fresh or {})
                    fresh = None
                    self._loaded.set()
                    continue
                value = None if entry.operation in _GONE else entry.value or b""
                if fresh is None:
                    self._set(entry.key, value)
                elif value is not None:
                    fresh[entry.key] = value
        finally:
            restart.cancel()
            with contextlib.suppress(NatsError, JetStreamError, TimeoutError):
                await watcher.stop()  # type: ignore[no-untyped-call]

    def _replace(self, fresh: dict[str, bytes]) -> None:
        for key in self.entries.keys() - fresh.keys():
            self._set(key, None)
        for key, value in fresh.items():
            if self.entries.get(key) != value:
                self._set(key, value)

    def _set(self, key: str, value: bytes | None) -> None:
        if value is None:
            if self.entries.pop(key, None) is None:
                return
        elif self.entries.get(key) == value:
            return
        else:
            self.entries[key] = value
        if self._on_change is not None:
            self._on_change(key, value)
