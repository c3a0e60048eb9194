"""Validates the input of a batch: one pass over the file, in flat memory, naming every bad line."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection

from broker.batch import lines, states
from broker.batching import copies
from broker.batching.check import Check
from broker.batching.routes import named
from broker.batching.run import Run
from broker.bus.objects import GoneError
from broker.errors import InferenceError
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
    # Of which the prices matter.
    models: set[str] = set()

    def seen(_: lines.Line, model: str) -> None:
        if record.options.max_cost_nano and len(models) < states.MAX_ERRORS:
            models.add(model)

    check = Check(record, seen, size=record_file.bytes)
    try:
        async with contextlib.aclosing(run.services.files.read(record_file)) as chunks:
            await _read(run, check, chunks)
        await check.finish()
        if not check.mistakes:
            check.mistakes += await _unpriced(run, models)
        if not check.mistakes and check.duplicates:
            await copies.store(run, check.firsts)
    except GoneError:
        lost = "The bytes of the input file are gone."
        check.mistakes = [batch_pb2.BatchError(code="file_not_found", message=lost)]
    finally:
        check.close()
    if check.mistakes:
        await run.edit(lambda kept: states.fail(kept, check.mistakes, run.services.now()))
        return
    counted_to = await run.services.results.last()

    def begin(kept: batch_pb2.StoredBatch) -> bool:
        if not states.begin(kept, run.services.now()):
            return False
        kept.model = check.model
        kept.progress.total = check.total
        kept.progress.validated = 0
        kept.progress.copies = check.duplicates
        kept.progress.next_line = 1
        # No result of it can be older.
        kept.progress.counted_to = counted_to
        return True

    await run.edit(begin)


async def _unpriced(run: Run, models: Collection[str]) -> list[batch_pb2.BatchError]:
    """Mistakes for models whose price nobody knows: no bound of a cost could be kept."""
    found = []
    for model in sorted(models):
        decided = await run.services.routes.decide(run.record.endpoint, lines.Head(model), b"")
        targets = [named(model)] if isinstance(decided, InferenceError) else decided
        if not all(run.services.priced(to.provider, to.model) for to in targets):
            message = (
                f"The price of '{model}' is not known, so max_cost cannot be kept: leave it out, "
                "or have the price set among the offers of the settings."
            )
            error = batch_pb2.BatchError(code="price_unknown", message=message, param="max_cost")
            found.append(error)
    return found


async def _read(run: Run, check: Check, chunks: AsyncIterator[bytes]) -> None:
    """Feed the file, tell how far it is once a second, and look whether it is still wanted."""
    loop = asyncio.get_running_loop()
    told = loop.time()
    async for chunk in chunks:
        await check.feed(chunk)
        if check.enough:
            return
        if loop.time() - told > run.services.pace.checkpoint_s:
            await _tell(run, check.total)
            told = loop.time()


async def _tell(run: Run, checked: int) -> None:
    await run.refresh()
    if run.record.status != states.VALIDATING or states.due_stop(run.record, run.services.now()):
        raise StoppedError

    def put(kept: batch_pb2.StoredBatch) -> bool:
        kept.progress.validated = checked
        return True

    await run.edit(put)
