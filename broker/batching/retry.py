"""Makes the input of a batch that runs another one's failed and expired lines again.

Both files are in the order of the lines, so that one pass over each at once finds them.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator

from broker.batch import lines, names, projection, states
from broker.batch.splitter import Splitter
from broker.batching.run import Run
from broker.bus.responses import ConflictError
from broker.v1 import batch_pb2, file_pb2


async def make_input(run: Run) -> None:
    """Have the batch read a file of its own, or fail it. Raises `BusError`."""
    record, services = run.record, run.services
    own = names.retry_file(record.id)
    if record.input_file_id == own:
        return
    parent = await services.batches.get(record.owner, record.retry_of)
    source = await services.files.get(record.owner, parent.input_file_id if parent else "")
    failed = await services.files.get(record.owner, parent.error_file_id if parent else "")
    if parent is None or parent.status not in states.FINAL or source is None or failed is None:
        why = batch_pb2.BatchError(
            code="nothing_to_retry",
            message="The batch is not over, has no failed lines, or its files are gone.",
            param="retry_of",
        )
        await run.edit(lambda kept: states.fail(kept, [why], services.now()))
        return
    file = file_pb2.StoredFile(
        id=own,
        owner=record.owner,
        tenant=record.tenant,
        purpose=file_pb2.FILE_PURPOSE_BATCH,
        filename=f"{record.id}_input.jsonl",
    )
    if await services.files.get(record.owner, own) is None:
        with contextlib.suppress(ConflictError):
            await services.files.put(file, _failed_lines(run, source, failed))

    def use(kept: batch_pb2.StoredBatch) -> bool:
        kept.input_file_id = own
        return True

    await run.edit(use)


async def _failed_lines(
    run: Run, source: file_pb2.StoredFile, failed: file_pb2.StoredFile
) -> AsyncGenerator[bytes, None]:
    """Lines of `source` whose ids the rows of `failed` have."""
    rows, inputs = _lines(run, failed), _lines(run, source)
    try:
        async for row in rows:
            wanted = projection.decode_row(row).custom_id
            async for line in inputs:
                if not line.isspace() and lines.custom_id(line) == wanted:
                    yield line if line.endswith(b"\n") else line + b"\n"
                    break
    finally:
        await rows.aclose()
        await inputs.aclose()


async def _lines(run: Run, file: file_pb2.StoredFile) -> AsyncGenerator[bytes, None]:
    splitter = Splitter()
    async with contextlib.aclosing(run.services.files.read(file)) as pieces:
        async for piece in pieces:
            for line in splitter.feed(piece):
                yield line
    if line := splitter.last():
        yield line
