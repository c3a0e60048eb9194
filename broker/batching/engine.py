"""Runs all batches there are, while this process leads; another one goes on from the records."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial

from broker import subjects
from broker.batch import states
from broker.batching.counting import Counting
from broker.batching.life import Life
from broker.batching.publish import Publishing
from broker.batching.run import FencedError, Run
from broker.batching.services import Services
from broker.batching.telling import Telling
from broker.bus import backlog, delays
from broker.bus.batches import KeptBatch
from broker.bus.connection import BusError
from broker.bus.ending import end
from broker.bus.mirror import Mirror
from broker.translate.batches import STATUSES
from broker.v1 import batch_pb2

_log = logging.getLogger(__name__)

_AGAIN_S = 1.0
# Keys that stop a batch outlive whatever may still be queued of it.
_STOPS_KEPT_S = 17 * 86_400
# They go sooner where nothing waits any more that is not younger than they are by so much.
_STOPS_SETTLE_S = 3600
_STOPS_LOOKED_AT_S = 3600.0


class Engine:
    """See the module. Everything it writes is fenced by what it read, so that two do no harm."""

    def __init__(self, services: Services, telling: Telling) -> None:
        self._services = services
        self._telling = telling
        self._runs: dict[str, Run] = {}
        self._by_token: dict[str, Run] = {}
        self._lives: dict[str, asyncio.Task[None]] = {}
        self._active = Mirror(services.bus, subjects.BATCHES, self._told, keys="active.*")
        self._publishing = Publishing(services, self._runs)
        self._counting = Counting(services)
        self._news = asyncio.Event()

    def batches(self) -> dict[tuple[str, ...], float]:
        """How many of them run, by state."""
        found = Counter((STATUSES[run.record.status],) for run in self._runs.values())
        return {key: float(count) for key, count in found.items()}

    def lines(self) -> dict[tuple[str, ...], float]:
        """What there is of their lines: all, published, and with a result."""
        records = [run.record for run in self._runs.values()]
        return {
            ("total",): float(sum(record.progress.total for record in records)),
            ("published",): float(sum(record.progress.sent for record in records)),
            ("done",): float(sum(map(states.done, records))),
        }

    async def lead(self) -> None:
        """Run batches until cancelled."""
        silence: Callable[[], Awaitable[None]] = _silent
        tasks = [
            asyncio.create_task(self._publishing.publish(), name="publish lines"),
            asyncio.create_task(self._counting.count(), name="count results"),
        ]
        for task in tasks:
            task.add_done_callback(lambda _task: self._news.set())
        try:
            await self._active.start()
            silence = await delays.hear(self._services.bus, self._delayed)
            tasks.append(asyncio.create_task(self._sweep_stops(), name="stop keys"))
            while True:
                for task in tasks:
                    if task.done():
                        task.result()
                self._discover()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._services.pace.reread_s):
                        await self._news.wait()
                self._news.clear()
        finally:
            for task in (*tasks, *self._lives.values()):
                await end(task)
            await silence()
            await self._active.close()

    def _told(self, key: str, value: bytes | None) -> None:
        """A batch came, or somebody asked something of one."""
        batch = key.partition(".")[2]
        run = self._by_token.get(batch)
        if run is not None and value is not None:
            run.news.set()
        self._news.set()

    def _delayed(self, batch: str, delay: batch_pb2.BatchDelay) -> None:
        """Lines of a batch have to wait."""
        if (run := self._by_token.get(batch)) is not None:
            run.delayed(delay)

    def _discover(self) -> None:
        for key, value in self._active.entries.items():
            batch = key.partition(".")[2]
            if batch not in self._lives:
                task = asyncio.create_task(self._live(batch, value.decode().split()[0]), name=batch)
                self._lives[batch] = task
                task.add_done_callback(partial(self._ended, batch))

    def _ended(self, batch: str, _task: asyncio.Task[None]) -> None:
        self._lives.pop(batch, None)

    async def _live(self, token: str, key: str) -> None:
        """One batch, to its end, however often it has to be begun anew."""
        orphan_until = asyncio.get_running_loop().time() + self._services.pace.orphan_s
        while f"active.{token}" in self._active.entries:
            try:
                kept = await self._services.batches.read(key)
                if kept is None:
                    if asyncio.get_running_loop().time() > orphan_until:
                        _log.warning("batch %s was never created", token)
                        await self._services.batches.let_go(token)
                        break
                else:
                    await self._run(token, kept)
                    break
            except FencedError:
                _log.info("batch %s was changed by another process", token)
            except BusError as exc:
                _log.info("batch %s: %s; trying again", token, exc)
            except Exception:  # noqa: BLE001 - one batch must not stop the others
                _log.exception("running batch %s; trying again", token)
            await asyncio.sleep(_AGAIN_S)
        self._active.entries.pop(f"active.{token}", None)

    async def _run(self, token: str, kept: KeptBatch) -> None:
        run = Run(self._services, kept)
        self._runs[run.id] = self._by_token[token] = run
        life = Life(run, self._counting, self._telling)
        try:
            await life.live()
        finally:
            del self._runs[run.id], self._by_token[token]
            self._counting.leave(run)
            self._publishing.forget(run)
        await life.tell()

    async def _sweep_stops(self) -> None:
        """Delete keys that stop batches of long ago."""
        while True:
            try:
                await self._delete_stops()
            except BusError as exc:
                _log.info("deleting old stop keys: %s", exc)
            await asyncio.sleep(_STOPS_LOOKED_AT_S)

    async def _delete_stops(self) -> None:
        stopped = await self._services.batches.stopped_since()
        if not stopped:
            return
        oldest, now = await backlog.oldest(self._services.bus), self._services.now()
        for batch, since in stopped.items():
            settled = min(oldest, now) > since + _STOPS_SETTLE_S
            if (settled or now - since > _STOPS_KEPT_S) and batch not in self._lives:
                await self._services.batches.unstop(batch)


async def _silent() -> None:
    """Nothing is heard yet."""
