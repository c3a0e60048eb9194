"""The session of a background attempt: its events go into the response's log (R19).

What the edge is to an interactive attempt: it checks a second run against what the first one
showed (R4), holds back what could still be taken back, and gives credit.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from broker.answer import Fold
from broker.bus import BusError
from broker.bus.eventlog import FencedError
from broker.errors import InferenceError
from broker.resume import CONTENT, Transcript
from broker.v1 import event_pb2

_log = logging.getLogger(__name__)

# Appends are collected for this long.
COALESCE_S = 0.05
# What may wait for the log before the provider's answer is read no further, in bytes.
CREDIT = 4 << 20

Append = Callable[[list[event_pb2.Event]], Awaitable[None]]


class LogSession:
    """See the module. `append` raises `FencedError` or `BusError`, after which all is over."""

    def __init__(self, append: Append, logged: list[event_pb2.Event]) -> None:
        self.credit = CREDIT
        self.fold = Fold()
        self.completed: event_pb2.Completed | None = None
        self.failure: InferenceError | None = None
        # Why the log takes nothing more.
        self.broken: FencedError | BusError | None = None
        self.shown = False
        self._append = append
        self._transcript = Transcript()
        self._started: event_pb2.Event | None = None
        self._begun = False
        self._ready: list[event_pb2.Event] = []
        self._size = 0
        self._writing: asyncio.Task[None] | None = None
        self._more_credit = asyncio.Event()
        self._stop: Callable[[], object] | None = None
        for event in logged:
            self._remember(event)
        self._replaying = self.shown
        self._transcript.rewind()

    @property
    def resumable(self) -> bool:
        """Whether what was shown can be compared with another run."""
        return self._transcript.resumable

    def when_over(self, callback: Callable[[], object] | None) -> None:
        """Call `callback` when there is no point in going on."""
        self._stop = callback

    def send(self, events: list[event_pb2.Event], *, last: bool = False) -> None:
        """Take events of the attempt."""
        if self.broken is not None or self.failure is not None:
            return
        try:
            for event in events:
                self._take(event)
            if last and self.completed is not None and self._replaying:
                self._transcript.finish()
        except InferenceError as exc:
            self.completed, self.failure = None, exc
            if self._stop is not None and not last:
                self._stop()
        size = sum(event.ByteSize() for event in events)
        self._size += size
        self.credit -= size
        if self._writing is None and self._ready:
            self._writing = asyncio.create_task(self._write(), name="log")
        elif self._writing is None:
            self._give_credit()

    async def wait_credit(self) -> None:
        """Wait until the log has taken some of it. Raises what broke it."""
        while self.credit <= 0:
            if self.broken is not None:
                raise self.broken
            self._more_credit.clear()
            await self._more_credit.wait()

    async def flush(self) -> None:
        """Return once everything is in the log. Raises what broke it."""
        if self._started is not None and self.completed is not None:
            self._show(self._started)
        while self._ready or self._writing is not None:
            if self._writing is None:
                self._writing = asyncio.create_task(self._write(), name="log")
            await self._writing
        if self.broken is not None:
            raise self.broken

    def close(self) -> None:
        """Write nothing more."""
        if self._writing is not None:
            self._writing.cancel()

    def _take(self, event: event_pb2.Event) -> None:
        kind = event.WhichOneof("kind") or ""
        if kind == "started":
            # Held back until there is something to show: until then another may answer.
            if not self._begun:
                self._started = event
        elif kind in CONTENT:
            checked = self._transcript.check(kind, event) if self._replaying else event
            if checked is not None:
                if self._started is not None:
                    self._show(self._started)
                self._show(checked)
        elif kind == "completed":
            self.completed = event.completed
        elif kind == "failed":
            self.failure = InferenceError.from_failure(event.failed)

    def _show(self, event: event_pb2.Event) -> None:
        self._remember(event)
        self._ready.append(event)

    def _remember(self, event: event_pb2.Event) -> None:
        kind = event.WhichOneof("kind") or ""
        self.fold.feed([event])
        if kind == "started":
            self._begun = True
            self._started = None
        else:
            self.shown = True
            self._transcript.show(kind, event)

    async def _write(self) -> None:
        """Write what is ready until nothing is."""
        try:
            while self._ready:
                if self.completed is None:
                    await asyncio.sleep(COALESCE_S)
                ready, self._ready = self._ready, []
                await self._append(ready)
                self._give_credit()
        except (FencedError, BusError) as exc:
            self.broken = exc
            self._ready = []
            if self._stop is not None:
                self._stop()
        finally:
            self._writing = None
            self._more_credit.set()

    def _give_credit(self) -> None:
        self.credit += self._size
        self._size = 0
        self._more_credit.set()
