"""One bulk call: many requests over one stream, results in completion order.

HTTP/2 flow control is the backpressure. A result that was not taken yet keeps its item's place,
and without a free place the call is not read, so that whoever reads slowly slows the sender down
and what the server holds for a call stays bounded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from broker.v1 import inference_service_pb2 as pb
from edge.rpc.calls import Context, unreadable

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

    async def take(self, size: int) -> None:
        """Wait for a place. For one waiter at a time."""
        while self._items >= ITEMS or (self._items and self._bytes + size > BYTES):
            self._freed.clear()
            await self._freed.wait()
        self._items += 1
        self._bytes += size

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
    """Reads items, has them answered by `answer`, which never fails, and writes the results."""

    def __init__(self, context: Context, answer: Answer) -> None:
        self._context = context
        self._answer = answer
        self._places = _Places()
        self._running: set[asyncio.Task[None]] = set()
        # None comes last.
        self._results: asyncio.Queue[tuple[pb.InferManyResponse, int] | None] = asyncio.Queue()

    async def run(self) -> None:
        """Serve the call to its end; raises what reading it raised, after the last result."""
        reader = asyncio.create_task(self._read(), name="bulk call")
        try:
            while (done := await self._results.get()) is not None:
                result, size = done
                await self._context.write(result)
                self._places.free(size)
            await reader
        finally:
            tasks: set[asyncio.Task[Any]] = {reader, *self._running}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self) -> None:
        try:
            while (item := await self._context.read()) is not grpc.aio.EOF:
                if not isinstance(item, pb.InferManyRequest):
                    raise unreadable()
                size = item.ByteSize()
                await self._places.take(size)
                task = asyncio.create_task(self._one(item, size), name="bulk item")
                self._running.add(task)
                task.add_done_callback(self._running.discard)
        finally:
            # What runs has been paid for: it is answered whatever became of the reading.
            if self._running:
                await asyncio.wait(set(self._running))
            self._results.put_nowait(None)

    async def _one(self, item: pb.InferManyRequest, size: int) -> None:
        result = await self._answer(item)
        weight = result.ByteSize()
        self._places.resize(size, weight)
        self._results.put_nowait((result, weight))
