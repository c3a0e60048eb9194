"""A request that runs for several readers: each has all of its answer, from the first event on.

It goes as fast as its fastest reader reads, and ends when the last one has gone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from broker.bus.layout import MAX_INLINE_BODY
from broker.errors import InferenceError
from broker.v1 import event_pb2
from edge.claims import Claim
from edge.seams import ExchangeLike

_log = logging.getLogger(__name__)

# What is read ahead of the fastest reader, and how far the slowest may be behind.
AHEAD_BYTES = 256 << 10
BEHIND_BYTES = 8 << 20

_Events = Sequence[event_pb2.Event]


class Run:
    """See the module. Nobody is told the end before the answer is kept.

    While it can be joined it is in `runs`, by its request's id.
    """

    def __init__(self, inner: ExchangeLike, claim: Claim, runs: dict[str, Run]) -> None:
        self.request_id = inner.request_id
        self.answer_id = inner.answer_id
        self.created = inner.created
        self.request_hash = claim.request_hash
        self.over = False
        self.error: Exception | None = None
        self.size = 0
        self._inner = inner
        self._claim = claim
        self._runs = runs
        runs[self.request_id] = self
        # By their numbers. Those before `_first` were dropped; all are here while the answer may
        # yet be kept.
        self._batches: dict[int, _Events] = {}
        self._first = 0
        self._readers: set[Reader] = set()
        self._moved = asyncio.Event()
        self._leaving = False
        self._task = asyncio.create_task(self._pump(), name=f"run {self.request_id}")

    @property
    def route(self) -> str:
        """As the exchange's own."""
        return self._inner.route

    @property
    def too_large(self) -> bool:
        """Whether its beginning is gone: nobody can read along any more, or have it again."""
        return self._first > 0

    def join(self, *, replayed: bool = True) -> Reader | None:
        """One more reader; None where it is too large, or all the others have gone."""
        if self.too_large or self._leaving:
            return None
        reader = Reader(self, replayed=replayed)
        self._readers.add(reader)
        return reader

    def leave(self, reader: Reader) -> None:
        """The reader is done or gone."""
        self._readers.discard(reader)
        self._moved.set()
        if not self._readers and not self.over:
            self._leaving = True
            self._inner.close()

    def since(self, number: int) -> list[event_pb2.Event]:
        """What came from batch `number` on."""
        if number < self._first:
            raise InferenceError("client_gone", "the client did not read", phase="content")
        return [event for n in range(number, self.end) for event in self._batches[n]]

    @property
    def end(self) -> int:
        """The number of the next batch."""
        return self._first + len(self._batches)

    def moved(self) -> None:
        """A reader has read."""
        self._moved.set()

    async def _pump(self) -> None:
        """Read on until the end, whoever of the readers is still there."""
        try:
            while not self.over and (batch := await self._inner.next()):
                await self._take(batch)
            if not self.over:
                self.error = InferenceError("client_gone", "the request has ended")
        except Exception as exc:  # noqa: BLE001  the readers' to tell
            self.error = exc
        finally:
            self.over = True
            self._runs.pop(self.request_id, None)
            self._inner.close()
            self._claim.release()
            self._tell()

    async def _take(self, batch: _Events) -> None:
        size = self.size + sum(event.ByteSize() for event in batch)
        if size > MAX_INLINE_BODY:
            self._trim()
        self._batches[self.end] = batch
        self.size = size
        if batch[-1].HasField("completed"):
            events = self.since(0) if size <= MAX_INLINE_BODY else []
            await self._claim.answered(self.answer_id, self.created, events)
            self.over = True
        self._tell()
        while not self.over and self._ahead() > AHEAD_BYTES:
            self._moved.clear()
            await self._moved.wait()

    def _ahead(self) -> int:
        return min((self.size - reader.read for reader in self._readers), default=0)

    def _trim(self) -> None:
        """Drop what everybody has read that is not too far behind."""
        close = (r.at for r in self._readers if self.size - r.read <= BEHIND_BYTES)
        oldest = min(close, default=self.end)
        while self._first < oldest:
            del self._batches[self._first]
            self._first += 1

    def _tell(self) -> None:
        for reader in self._readers:
            reader.news.set()


class Reader:
    """One reader of a run, as an exchange. `replayed`: the run is another request's."""

    def __init__(self, run: Run, *, replayed: bool) -> None:
        self.request_id = run.request_id
        self.answer_id = run.answer_id
        self.created = run.created
        self.replayed = replayed
        self.news = asyncio.Event()
        # The next batch, and the bytes of those before it.
        self.at = 0
        self.read = 0
        self._run = run
        self._deadline: float | None = None

    @property
    def route(self) -> str:
        """As the exchange's own."""
        return self._run.route

    async def begin(self, deadline: float) -> None:
        """Wait for something to read, which has until `deadline` by the loop's clock to end.

        Raises `InferenceError` when the request failed first.
        """
        await self._wait()
        self._deadline = deadline

    async def next(self) -> _Events:
        """As the exchange's own."""
        try:
            async with asyncio.timeout_at(self._deadline):
                await self._wait()
        except TimeoutError:
            raise InferenceError("deadline", "the deadline passed", phase="content") from None
        events = self._run.since(self.at)
        self.at, self.read = self._run.end, self._run.size
        self._run.moved()
        return events

    def divert(self, take: Callable[[_Events], bool]) -> None:
        """Nothing goes past `next`: several read the same."""

    def close(self) -> None:
        """The run goes on for the others."""
        self._run.leave(self)

    async def _wait(self) -> None:
        """Wait for a batch, or for the end; raises what the run failed with."""
        run = self._run
        while self.at >= run.end:
            if run.error is not None:
                raise run.error
            if run.over:
                return
            self.news.clear()
            await self.news.wait()
