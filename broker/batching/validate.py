"""Validates the input of a batch: one pass over the file, in flat memory, naming every bad line."""

from __future__ import annotations

import asyncio
import contextlib
from array import array
from collections.abc import AsyncIterator

from broker.batch import lines, states
from broker.batching import copies
from broker.batching.run import Run
from broker.batching.spill import Spill
from broker.bus.objects import GoneError
from broker.v1 import batch_pb2


class StoppedError(Exception):
    """Nobody wants to know any more."""


async def validate(run: Run) -> None:
    """Begin the batch, or fail it. Raises `BusError`, and `StoppedError` when it is cancelled."""
    record = run.record
    record_file = await run.services.files.get(record.owner, record.input_file_id)
    run.input = record_file
    if record_file is None:
        gone = "The input file does not exist any more."
        error = batch_pb2.BatchError(code="file_not_found", message=gone, param="input_file_id")
        await run.edit(lambda kept: states.fail(kept, [error], run.services.now()))
        return
    check = _Check(record)
    try:
        async with contextlib.aclosing(run.services.files.read(record_file)) as chunks:
            await _read(run, check, chunks)
        check.finish()
        if not check.mistakes and check.repeats:
            await copies.store(run, check.repeats)
    except GoneError:
        lost = "The bytes of the input file are gone."
        check.mistakes = [batch_pb2.BatchError(code="file_not_found", message=lost)]
    finally:
        check.close()
    if check.mistakes:
        found = sorted(check.mistakes, key=lambda mistake: mistake.line)
        await run.edit(lambda kept: states.fail(kept, found, run.services.now()))
        return
    counted_to = await run.services.results.last()

    def begin(kept: batch_pb2.StoredBatch) -> bool:
        if not states.begin(kept, run.services.now()):
            return False
        kept.model = check.model
        kept.progress.total = check.total
        kept.progress.validated = record_file.bytes
        kept.progress.copies = len(check.repeats) // 2
        kept.progress.next_line = 1
        # No result of it can be older.
        kept.progress.counted_to = counted_to
        return True

    await run.edit(begin)


async def _read(run: Run, check: _Check, chunks: AsyncIterator[bytes]) -> None:
    """Feed the file, tell how far it is once a second, and look whether it is still wanted."""
    loop = asyncio.get_running_loop()
    told = loop.time()
    size = 0
    async for chunk in chunks:
        size += len(chunk)
        check.feed(chunk)
        if check.enough:
            return
        if loop.time() - told > run.services.pace.checkpoint_s:
            await _tell(run, size)
            told = loop.time()


async def _tell(run: Run, size: int) -> None:
    await run.refresh()
    if run.record.status != states.VALIDATING or states.due_stop(run.record, run.services.now()):
        raise StoppedError

    def put(kept: batch_pb2.StoredBatch) -> bool:
        kept.progress.validated = size
        return True

    await run.edit(put)


class _Check:
    """What is known of the lines so far."""

    def __init__(self, record: batch_pb2.StoredBatch) -> None:
        self._endpoint = record.endpoint
        self._options = record.options
        self._ids = Spill(lines.DIGEST)
        self._bodies = Spill(lines.DIGEST) if record.options.dedupe else None
        self._rest = b""
        self._hopeless = False
        self._number = 0
        self.total = 0
        self.model = ""
        self.mistakes: list[batch_pb2.BatchError] = []
        # Pairs of a line and the first one that asks the same, by the line.
        self.repeats = array("q")

    @property
    def enough(self) -> bool:
        """Whether reading on would tell nothing more that is kept."""
        return self._hopeless or len(self.mistakes) >= states.MAX_ERRORS

    def feed(self, data: bytes) -> None:
        """More of the file."""
        data = self._rest + data if self._rest else data
        end = data.rfind(b"\n") + 1
        self._rest = data[end:]
        if end:
            for line in lines.split(data[:end]):
                self._line(line)
        if len(self._rest) > lines.MAX_LINE:
            self._fail([lines.too_long(self._number + 1)], last=True)

    def finish(self) -> None:
        """All of the file was fed."""
        if self._rest and not self.enough:
            self._line(self._rest)
        if not self.total and not self.mistakes:
            self.mistakes.append(lines.empty())
        if self.enough:
            return
        for found in self._ids.repeated():
            self._fail([lines.duplicate_id(number, first) for number, first in found])
        if self._bodies is not None and not self.mistakes:
            pairs = sorted(pair for found in self._bodies.repeated() for pair in found)
            for pair in pairs:
                self.repeats.extend(pair)

    def close(self) -> None:
        """Forget the digests."""
        self._ids.close()
        if self._bodies is not None:
            self._bodies.close()

    def _line(self, line: bytes) -> None:
        self._number += 1
        if line.isspace() or self.enough:
            return
        self.total += 1
        if self.total > lines.MAX_TASKS and not self._options.large:
            self._fail([lines.too_many()], last=True)
            return
        try:
            read, model = lines.check(line, self._number, self._endpoint)
        except lines.InvalidLineError as exc:
            self._fail(exc.mistakes)
            return
        if not self.model:
            self.model = model
        elif model != self.model and not self._options.mixed_models:
            self._fail([lines.other_model(model, self.model, self._number)])
        self._ids.add(lines.id_digest(read.custom_id), self._number)
        if self._bodies is not None:
            self._bodies.add(lines.body_digest(read.body), self._number)

    def _fail(self, mistakes: list[batch_pb2.BatchError], *, last: bool = False) -> None:
        """Keep mistakes; the `last` one is the only one that matters."""
        self._hopeless = self._hopeless or last
        self.mistakes = mistakes if last else self.mistakes + mistakes[: states.MAX_ERRORS]
