"""A bucket mirrored in memory: read without a round trip, told of every change."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any

from nats.errors import Error as NatsError
from nats.js.api import ConsumerInfo
from nats.js.kv import KeyValue

from broker.bus.connection import Bus, BusError
from broker.bus.ending import end
from broker.tasks import keep

_log = logging.getLogger(__name__)

# A watcher can go blind for many seconds when its server was killed, so all keys are read again.
_REREAD_S = 30.0
# A read that began this long ago is still fresh: a thousand requests for it are one read.
_FRESH_S = 0.25
# The server forgets a watcher that is gone without notice after this long.
_FORGET_S = 10.0
_SNAPSHOT_S = 5.0
_GONE = ("DEL", "PURGE")


class Mirror:
    """`entries` follows the bucket; `on_change(key, value or None)` is called for each change.

    `keys` is the pattern of those that are followed, such as `stop.*`.
    """

    def __init__(
        self,
        bus: Bus,
        bucket: str,
        on_change: Callable[[str, bytes | None], None] | None = None,
        *,
        keys: str = ">",
    ) -> None:
        self.entries: dict[str, bytes] = {}
        self._bus = bus
        self._bucket = bucket
        self._keys = keys
        self._on_change = on_change
        self._restart = asyncio.Event()
        # When the newest whole read began; the event is set when there is a newer one.
        self._read_at = float("-inf")
        self._read = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._unheard: Callable[[], object] = lambda: None

    async def start(self) -> None:
        """Return once all present keys were read."""
        await self._bus.kv(self._bucket)
        self._unheard = self._bus.on_reconnect(self._restart.set)
        read = self._read
        self._task = keep(self._follow, f"mirror {self._bucket}")
        await asyncio.wait_for(read.wait(), 15)

    async def refresh(self) -> None:
        """Have everything read that is there now (R12: absence is believed after a fresh read).

        Gives up after 2 s.
        """
        wanted = asyncio.get_running_loop().time() - _FRESH_S
        if self._read_at >= wanted:
            return
        self._restart.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2):
                while self._read_at < wanted:
                    await self._read.wait()

    async def close(self) -> None:
        """Stop following."""
        self._unheard()
        if self._task is not None:
            await end(self._task)

    async def _follow(self) -> None:
        while True:
            try:
                await self._watch_once()
            except (NatsError, TimeoutError, BusError) as exc:
                _log.warning("watching %s failed: %s; trying again", self._bucket, exc)
                await asyncio.sleep(0.5)

    async def _watch_once(self) -> None:
        """One watcher, until it is time to read everything again."""
        self._restart.clear()
        loop = asyncio.get_running_loop()
        began = loop.time()
        kv = await self._bus.kv(self._bucket)
        watcher = await kv.watch(self._keys, inactive_threshold=_FORGET_S)
        info: ConsumerInfo | None = None
        restart = asyncio.ensure_future(self._restart.wait())
        waiting: list[asyncio.Future[Any]] = [restart]
        try:
            # The watcher's own mark of a whole read comes when all was sent, be it here or not.
            info = await watcher._sub.consumer_info()  # type: ignore[union-attr]
            left = (info.num_pending or 0) + (info.delivered.consumer_seq if info.delivered else 0)
            async with asyncio.timeout(_SNAPSHOT_S):
                await self._read_all(watcher, left)
            self._read_at = began
            self._read.set()
            self._read = asyncio.Event()
            while (time_left := began + _REREAD_S - loop.time()) > 0:
                step = asyncio.ensure_future(watcher._updates.get())
                waiting[1:] = [step]
                await asyncio.wait(
                    (step, restart), timeout=time_left, return_when=asyncio.FIRST_COMPLETED
                )
                if not step.done():
                    return
                entry = step.result()
                if isinstance(entry, KeyValue.Entry):
                    self._set(entry.key, _value(entry))
        finally:
            for future in waiting:
                future.cancel()
            with contextlib.suppress(NatsError, TimeoutError):
                await watcher.stop()  # type: ignore[no-untyped-call]
                if info is not None and self._bus.connected:
                    async with asyncio.timeout(1):
                        await self._bus.js.delete_consumer(info.stream_name, info.name)

    async def _read_all(self, watcher: KeyValue.KeyWatcher, left: int) -> None:
        """Take the `left` messages that were there when the watcher began."""
        fresh: dict[str, bytes] = {}
        while left > 0:
            entry = await watcher._updates.get()
            if isinstance(entry, KeyValue.Entry):
                left -= 1
                value = _value(entry)
                if value is not None:
                    fresh[entry.key] = value
                else:
                    fresh.pop(entry.key, None)
        self._replace(fresh)

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
            try:
                self._on_change(key, value)
            except Exception:  # noqa: BLE001
                # One record that its reader cannot take must not blind it to all others.
                _log.exception("a change of %s in %s", key, self._bucket)


def _value(entry: KeyValue.Entry) -> bytes | None:
    return None if entry.operation in _GONE else entry.value or b""
