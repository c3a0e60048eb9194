"""Writes the files of a batch: a projection of its results, in the order of its lines.

Ids, times and bytes are the same whoever writes them, however often: a file that is there already
is right. Results are forgotten once the record names the files.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from itertools import islice

from broker.batch import lines, names, native, projection, states
from broker.batching import copies, reading
from broker.batching.run import Run
from broker.bus.ending import end
from broker.bus.responses import ConflictError
from broker.v1 import batch_pb2, file_pb2

# Of a file: bytes that are handed on at once, and how many such pieces wait.
_PIECE = 256 << 10
_WAITING = 4
# Lines whose results are read at once, while they are small.
_MOST = 512
_FEWEST = 8
_GROUP_BYTES = 2 << 20
# Groups that are read while one is written.
_AHEAD = 3


async def write(run: Run) -> None:
    """Write both files, then the final state."""
    output = _Sink(run, names.output_file(run.id), "output")
    errors = _Sink(run, names.error_file(run.id), "error")
    models: set[str] = set()
    lost = 0
    try:
        async with contextlib.aclosing(_results(run)) as groups:
            async for group in groups:
                for found in group:
                    result, body = await _with_body(run, found)
                    answered = projection.answered(result)
                    lost += answered < projection.answered(found)
                    if answered:
                        models.add(result.answered_model)
                    (output if answered else errors).add(projection.row(run.id, result, body))
                    if body is not None:
                        await output.flush()
                        await errors.flush()
                await output.flush()
                await errors.flush()
        output_id, error_id = await output.finish(), await errors.finish()
    finally:
        await output.stop()
        await errors.stop()

    def over(kept: batch_pb2.StoredBatch) -> bool:
        if not states.finish(kept, output_id, error_id, run.services.now()):
            return False
        # They were counted as answers, and are charged: they were.
        kept.progress.completed -= lost
        kept.progress.failed += lost
        if len(models) == 1 and (model := next(iter(models))):
            kept.model = model
        return True

    await run.edit(over)


async def clean(run: Run) -> None:
    """The batch is over: forget what it was run with."""
    services, record = run.services, run.record
    if record.in_progress_at:
        # A line may still wait, of a second publish or with an ack that was lost: without its
        # result, which goes now, nothing else would keep it from being run again.
        await services.batches.stop(run.id, record.stop_code or states.BATCH_EXPIRED)
    await services.results.purge(run.id)
    if record.progress.copies:
        await copies.forget(run)
    if not record.in_progress_at:
        await services.batches.unstop(run.id)
    if native.possible(record):
        await services.batches.end_live(run.id)


async def _with_body(
    run: Run, result: batch_pb2.LineResult
) -> tuple[batch_pb2.LineResult, bytes | None]:
    """A result, and its body where that is stored apart; an error in its place where it is lost."""
    if not result.HasField("object"):
        return result, None
    body = await run.services.blobs.get(result.object.name)
    return (result if body is not None else projection.lost(result)), body


async def _results(run: Run) -> AsyncGenerator[list[batch_pb2.LineResult], None]:
    """What becomes of the lines, in their order; nothing of an input that was never valid."""
    if not run.record.in_progress_at:
        return
    last = 0
    try:
        async with contextlib.aclosing(_by_input(run)) as groups:
            async for group in groups:
                yield group
                last = group[-1].number if group else last
    except reading.InputGoneError:
        # What was answered is kept all the same, each line once.
        bits = await run.services.results.present(run.id)
        numbers = (n for n in range(last + 1, 8 * len(bits)) if bits[n >> 3] >> (n & 7) & 1)
        while some := list(islice(numbers, _FEWEST)):
            found = await run.services.results.range(run.id, some)
            yield [found[number] for number in sorted(found)]


async def _by_input(run: Run) -> AsyncGenerator[list[batch_pb2.LineResult], None]:
    """The same, by the input: while a group is written, the next ones are read."""
    lines_left: list[tuple[int, str]] = []
    most = _FEWEST
    reads: deque[asyncio.Task[_Group]] = deque()
    try:
        async with contextlib.aclosing(reading.chunks(run, 0, 1)) as chunks:
            async for chunk in chunks:
                lines_left += [(raw.number, lines.custom_id(raw.data)) for raw in chunk.lines]
                while len(lines_left) >= most:
                    part, lines_left = lines_left[:most], lines_left[most:]
                    reads.append(asyncio.create_task(_read(run, part), name="read results"))
                    if len(reads) > _AHEAD:
                        async for group in _whole(run, await reads.popleft()):
                            yield group
                            # Large ones are read a few at a time: memory stays flat.
                            size = sum(result.ByteSize() for result in group)
                            fits = len(group) * _GROUP_BYTES // max(1, size)
                            most = max(_FEWEST, min(_MOST, 2 * most, fits))
        reads.append(asyncio.create_task(_read(run, lines_left), name="read results"))
        while reads:
            async for group in _whole(run, await reads.popleft()):
                yield group
    finally:
        for read in reads:
            await end(read)


@dataclass(slots=True)
class _Group:
    """Numbers and names of lines, and their results; None: they are too large together."""

    lines: list[tuple[int, str]]
    results: list[batch_pb2.LineResult] | None


async def _read(run: Run, part: list[tuple[int, str]]) -> _Group:
    """The results of lines, a few megabytes at most."""
    if not part:
        return _Group(part, [])
    found, more = await run.services.results.some(run.id, [number for number, _ in part])
    if more and len(part) > 1:
        return _Group(part, None)
    code = run.record.stop_code or states.BATCH_EXPIRED
    return _Group(
        part,
        [found.get(number) or projection.ended(number, name, code) for number, name in part],
    )


async def _whole(run: Run, group: _Group) -> AsyncGenerator[list[batch_pb2.LineResult], None]:
    """The results of a group, in parts where it is too large."""
    if group.results is not None:
        if group.results:
            yield group.results
        return
    half = len(group.lines) // 2
    for part in (group.lines[:half], group.lines[half:]):
        async for results in _whole(run, await _read(run, part)):
            yield results


class _Sink:
    """One file, written as its rows come; there is none without rows."""

    def __init__(self, run: Run, file_id: str, kind: str) -> None:
        self._run = run
        record = run.record
        made_at = states.written_at(record)
        self._file = file_pb2.StoredFile(
            id=file_id,
            owner=record.owner,
            tenant=record.tenant,
            purpose=file_pb2.FILE_PURPOSE_BATCH_OUTPUT,
            filename=f"{record.id}_{kind}.jsonl",
            created_at=made_at,
        )
        if record.output_expires_after_s:
            self._file.expires_at = made_at + record.output_expires_after_s
        self._rows: list[bytes] = []
        self._size = 0
        self._queue: asyncio.Queue[bytes] = asyncio.Queue(_WAITING)
        self._writing: asyncio.Task[None] | None = None

    def add(self, row: bytes) -> None:
        """The next row."""
        self._rows.append(row)
        self._size += len(row)

    async def flush(self) -> None:
        """Hand on what was added, once it is worth it."""
        if self._size >= _PIECE:
            await self._flush()

    async def finish(self) -> str:
        """Store it; its id, or nothing where it has no rows."""
        if self._rows:
            await self._flush()
        if self._writing is None:
            return ""
        await self._hand(self._writing, b"")
        await self._writing
        return self._file.id

    async def stop(self) -> None:
        """Give up what is not stored."""
        if self._writing is not None and not self._writing.done():
            self._writing.cancel()
            await asyncio.wait((self._writing,))

    async def _flush(self) -> None:
        piece = b"".join(self._rows)
        self._rows, self._size = [], 0
        if self._writing is None:
            self._writing = asyncio.create_task(self._write(), name="batch file")
        await self._hand(self._writing, piece)

    async def _hand(self, writing: asyncio.Task[None], piece: bytes) -> None:
        """Give a piece to the writer, unless that has failed."""
        putting = asyncio.ensure_future(self._queue.put(piece))
        try:
            await asyncio.wait((putting, writing), return_when=asyncio.FIRST_COMPLETED)
            if writing.done() and not putting.done():
                writing.result()
        finally:
            putting.cancel()

    async def _write(self) -> None:
        files = self._run.services.files
        if await files.get(self._file.owner, self._file.id) is not None:
            async for _ in self._pieces():  # it was written before
                pass
            return
        with contextlib.suppress(ConflictError):
            await files.put(self._file, self._pieces())

    async def _pieces(self) -> AsyncIterator[bytes]:
        while piece := await self._queue.get():
            yield piece
