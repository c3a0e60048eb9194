"""What a batch's lines have answered, in the order of the input, while it runs and after.

While it runs the results are read where workers put them; when it is over they are in its files,
and nowhere else. Raises `InferenceError`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import dataclass

from broker.batch import projection, states
from broker.batch.splitter import Splitter
from broker.errors import InferenceError
from broker.translate.files import no_file
from broker.v1 import batch_pb2, file_pb2
from edge.batches.service import BatchService
from edge.store import told

# Lines that are asked for at a time, and bytes, of which half fit; how often one is looked at that
# is waited for.
_AT_ONCE = 500
_BYTES = 4 << 20
_LOOK_S = 1.0
# Rows go on together when they have so many bytes.
_TOGETHER = 64 << 10
# Behind the last row of a file.
_NO_MORE = 1 << 62


@dataclass(frozen=True, slots=True)
class Answered:
    """One line and its row as the files have it, with the end of the line."""

    number: int
    row: bytes
    # While the batch runs: with usage and cost.
    result: batch_pb2.LineResult | None = None


class _Group:
    """Rows that are handed on together."""

    def __init__(self) -> None:
        self.rows: list[Answered] = []
        self._size = 0

    def add(self, answered: Answered) -> bool:
        """One more; whether that is enough."""
        self.rows.append(answered)
        self._size += len(answered.row)
        return self._size >= _TOGETHER

    def take(self) -> list[Answered]:
        """All of them; the next one is of another group."""
        rows, self.rows, self._size = self.rows, [], 0
        return rows


class Reading:
    """Reads the results of one batch."""

    def __init__(self, service: BatchService, owner: str, batch_id: str) -> None:
        self._service = service
        self._owner = owner
        self._id = batch_id

    async def rows(self, after: int, *, wait: bool) -> AsyncGenerator[list[Answered], None]:
        """Results of lines behind `after`: those together that are there, 64 KB of them.

        `wait`: every line, in order, as it ends. Otherwise those that have ended.
        """
        at, many, waiting = after, _AT_ONCE, False
        while True:
            record = await self._service.get(self._owner, self._id)
            if record.status in states.FINAL:
                break
            numbers = range(at + 1, _published(record) + 1)[: 1 if waiting else many]
            found, more = await self._live(numbers)
            if more and len(numbers) > 1:
                many = len(numbers) // 2
                continue
            if len(numbers) == many:
                size = sum(result.ByteSize() for result in found.values())
                many = max(1, min(_AT_ONCE, 2 * many, len(found) * _BYTES // max(1, size)))
            # What is missing may have gone into the files meanwhile.
            record = await self._service.get(self._owner, self._id)
            if record.status in states.FINAL:
                break
            group = _Group()
            for number in numbers:
                if (result := found.pop(number, None)) is not None:
                    if group.add(Answered(number, await self._row(result), result)):
                        yield group.take()
                elif wait:
                    break
                at = number
            if group.rows:
                yield group.take()
            if not wait and not numbers:
                return
            # Those behind one that is missing are not read again each time.
            waiting = wait and at + 1 in numbers
            if not numbers or waiting:
                await asyncio.sleep(_LOOK_S)
        async with aclosing(self._filed(record, at)) as filed:
            async for some in filed:
                yield some

    async def _live(self, numbers: range) -> tuple[dict[int, batch_pb2.LineResult], bool]:
        if not numbers:
            return {}, False
        with told():
            return await self._service.results.some(self._id, numbers)

    async def _row(self, result: batch_pb2.LineResult) -> bytes:
        body = None
        if result.HasField("object"):
            with told():
                body = await self._service.blobs.get(result.object.name)
            if body is None:
                raise InferenceError("internal", f"the answer of line {result.number} is gone")
        return projection.row(self._id, result, body)

    async def _filed(
        self, record: batch_pb2.StoredBatch, after: int
    ) -> AsyncGenerator[list[Answered], None]:
        """The rows of both files, merged by the number of the line that each tells."""
        files = [await self._file(name) for name in (record.output_file_id, record.error_file_id)]
        rows = [_Rows(self._service, file) for file in files]
        group = _Group()
        async with aclosing(rows[0]), aclosing(rows[1]):
            while True:
                number, first = min([(await one.number(), at) for at, one in enumerate(rows)])
                if number == _NO_MORE:
                    break
                row = rows[first].take()
                if number > after and group.add(Answered(number, row)):
                    yield group.take()
            if group.rows:
                yield group.take()

    async def _file(self, file_id: str) -> file_pb2.StoredFile | None:
        if not file_id:
            return None
        with told():
            record = await self._service.files.get(self._owner, file_id)
        if record is None:
            raise no_file(file_id)
        return record


class _Rows:
    """The rows of a file one after the other; of none where there is no file."""

    def __init__(self, service: BatchService, file: file_pb2.StoredFile | None) -> None:
        self._data = None if file is None else service.files.read(file)
        self._file = "" if file is None else file.id
        self._splitter = Splitter()
        # What is whole of them.
        self._whole: Iterator[bytes] = iter(())
        self._row = b""
        self._number = _NO_MORE

    async def number(self) -> int:
        """The line of the next row; `_NO_MORE` behind the last one."""
        if not self._row:
            self._row = next(self._whole, b"") or await self._next()
            self._number = projection.number_of(self._row) if self._row else _NO_MORE
        return self._number

    def take(self) -> bytes:
        """The row that `number` told of."""
        row, self._row = self._row, b""
        return row

    async def aclose(self) -> None:
        """Stop reading."""
        if self._data is not None:
            await self._data.aclose()

    async def _next(self) -> bytes:
        while self._data is not None:
            with told(self._file):
                some = await anext(self._data, b"")
            if not some:
                self._data = None
                return self._splitter.last()
            self._whole = self._splitter.feed(some)
            if row := next(self._whole, b""):
                return row
        return b""


def _published(record: batch_pb2.StoredBatch) -> int:
    """The last line that may have ended."""
    progress = record.progress
    # A later pass begins with the first line again.
    whole = progress.published or progress.epoch
    return max(progress.next_line - 1, progress.total if whole else 0)
