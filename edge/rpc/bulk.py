"""One bulk call: many requests over one stream, results in completion order.

HTTP/2 flow control is the backpressure. A result that was not taken yet keeps its item's place,
and without a free place the call is not read, so that whoever reads slowly slows the sender down
and what the server holds for a call stays bounded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import grpc

from broker.tasks import Tasks
from broker.v1 import inference_service_pb2 as pb
from edge.rpc.calls import Context, unreadable
from edge.rpc.linger import linger

# Items of a call that are held at a time, and their bytes: requests that run and results that wait.
ITEMS = 256
BYTES = 64 << 20

Answer = Callable[[pb.InferManyRequest], Awaitable[pb.InferManyResponse]]


class _Places:
    """Room for items; there is always room for one, whatever its size."""

    def __init__(self) -> None:
        self._items = 0
        self._bytes = 0
        self._freed = asyncio.Event()
        self._closed = False

    def close(self) -> None:
        """Nobody has to wait any more."""
        self._closed = True
        self._freed.set()

    async def take(self, size: int) -> bool:
        """Wait for a place; False when there will be none. For one waiter at a time."""
        while not self._closed and (
            self._items >= ITEMS or (self._items and self._bytes + size > BYTES)
        ):
            self._freed.clear()
            await self._freed.wait()
        self._items += 1
        self._bytes += size
        return not self._closed

    def resize(self, old: int, new: int) -> None:
        """An item's request has become its result."""
        self._bytes += new - old
        self._freed.set()

    def free(self, size: int) -> None:
        """A result was taken."""
        self._items -= 1
        self._bytes -= size
        self._freed.set()


class Bulk:
    """Reads items, has them answered, and writes the results. Needs its `close`."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._places = _Places()
        self._reader: asyncio.Task[None] | None = None
        self._read_so_far = 0
        self._discarding = False
        self._running = Tasks()
        # None comes last.
        self._results: asyncio.Queue[tuple[pb.InferManyResponse, int] | None] = asyncio.Queue()

    async def run(self, answer: Answer) -> None:
        """Serve the call to its end with `answer`, which never fails.

        Raises what reading raised, after the last result.
        """
        self._reader = reader = asyncio.create_task(self._read(answer), name="bulk call")
        try:
            while (done := await self._results.get()) is not None:
                result, size = done
                await self._context.write(result)
                self._places.free(size)
            await reader
        finally:
            self._stop()

    async def discard(self) -> None:
        """Take what is still being sent, before the call is ended early."""
        self._stop()
        if self._reader is None or self._reader.done():
            self._reader = asyncio.create_task(self._read(_never), name="refused bulk call")
        await linger(self._reader, lambda: self._read_so_far)

    async def close(self) -> None:
        """Let go of everything."""
        self._stop()
        await self._running.close()
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)

    def _stop(self) -> None:
        """End what runs, and let the reader read on for nothing."""
        self._discarding = True
        self._places.close()
        self._running.cancel()

    async def _read(self, answer: Answer) -> None:
        try:
            while (item := await self._context.read()) is not grpc.aio.EOF:
                self._read_so_far += 1
                if self._discarding:
                    continue
                if not isinstance(item, pb.InferManyRequest):
                    raise unreadable()
                size = item.ByteSize()
                if await self._places.take(size):
                    self._running.spawn(self._one(answer, item, size), "bulk item")
        finally:
            # What runs has been paid for: it is answered whatever became of the reading.
            await self._running.settle()
            self._results.put_nowait(None)

    async def _one(self, answer: Answer, item: pb.InferManyRequest, size: int) -> None:
        result = await answer(item)
        weight = result.ByteSize()
        self._places.resize(size, weight)
        self._results.put_nowait((result, weight))


async def _never(item: pb.InferManyRequest) -> pb.InferManyResponse:
    raise AssertionError(f"{item.custom_id} was to be discarded")
