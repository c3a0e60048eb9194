"""BatchService: batches for programs."""

from __future__ import annotations

import asyncio
import contextlib

from broker.batch import states
from broker.batch.meter import Meter
from broker.translate.capacity import model_capacity
from broker.translate.rpc_batches import (
    batch,
    read_create,
    read_cursor,
    read_estimate,
    read_limit,
    result,
)
from broker.translate.usage import completion_tokens, prompt_tokens
from broker.v1 import batch_pb2
from broker.v1 import batch_service_pb2 as pb
from broker.v1 import batch_service_pb2_grpc as pb_grpc
from edge.batches.estimate import Estimate
from edge.batches.reading import Reading
from edge.kept import Kept
from edge.openstreams import OpenStreams
from edge.rpc.calls import Calls, Context, write

# Changes come to a watcher no more often.
_PACE_S = 1.0


class BatchService(pb_grpc.BatchServiceServicer):
    """See the proto."""

    def __init__(self, kept: Kept, calls: Calls, streams: OpenStreams, patience_s: float) -> None:
        self._service = kept.batches
        self._estimating = kept.estimating
        self._capacity = kept.capacity
        self._patience_s = patience_s
        self._calls = calls
        self._streams = streams

    async def CreateBatch(  # noqa: N802
        self, request: pb.CreateBatchRequest, context: Context
    ) -> pb.CreateBatchResponse:
        """A new batch, or the one of this request_id."""
        async with self._calls.call(context, request) as call:
            wanted = read_create(request)
            record = await self._service.create(call.key, wanted, request.request_id)
            return pb.CreateBatchResponse(batch=batch(record))

    async def EstimateBatch(  # noqa: N802
        self, request: pb.EstimateBatchRequest, context: Context
    ) -> pb.EstimateBatchResponse:
        """What a batch would be."""
        async with self._calls.call(context, request) as call:
            wanted = read_estimate(request)
            return _estimated(await self._estimating.estimate(call.key.owner, wanted))

    async def GetBatch(  # noqa: N802
        self, request: pb.GetBatchRequest, context: Context
    ) -> pb.GetBatchResponse:
        """One batch."""
        async with self._calls.call(context, request) as call:
            record = await self._service.get(call.key.owner, request.batch_id)
            return pb.GetBatchResponse(batch=batch(record))

    async def ListBatches(  # noqa: N802
        self, request: pb.ListBatchesRequest, context: Context
    ) -> pb.ListBatchesResponse:
        """Batches, newest first."""
        async with self._calls.call(context, request) as call:
            limit = read_limit(request)
            found, more = await self._service.list(call.key.owner, request.after, limit)
            return pb.ListBatchesResponse(batches=map(batch, found), has_more=more)

    async def WatchBatch(  # type: ignore[override]  # noqa: N802
        self, request: pb.WatchBatchRequest, context: Context
    ) -> None:
        """State and counts until the batch is over."""
        async with self._calls.call(context, request) as call:
            with self._streams.one(call.key.id):
                meter, loop = Meter(), asyncio.get_running_loop()
                records = self._service.watch(call.key.owner, request.batch_id)
                async with contextlib.aclosing(records):
                    async for record in records:
                        told = _watched(record, meter, loop.time())
                        told.capacity.extend(map(model_capacity, await self._capacity.of(record)))
                        await write(context, told, self._patience_s)
                        if record.status not in states.FINAL:
                            await asyncio.sleep(_PACE_S)

    async def ReadResults(  # type: ignore[override]  # noqa: N802
        self, request: pb.ReadResultsRequest, context: Context
    ) -> None:
        """Results in the order of the input."""
        async with self._calls.call(context, request) as call:
            after = read_cursor(request.after_cursor)
            with self._streams.one(call.key.id):
                reading = Reading(self._service, call.key.owner, request.batch_id)
                groups = reading.rows(after, wait=request.follow)
                async with contextlib.aclosing(groups):
                    async for group in groups:
                        for answered in group:
                            row = result(answered.number, answered.row, answered.result)
                            await write(context, row, self._patience_s)

    async def CancelBatch(  # noqa: N802
        self, request: pb.CancelBatchRequest, context: Context
    ) -> pb.CancelBatchResponse:
        """Begin no more lines."""
        async with self._calls.call(context, request) as call:
            record = await self._service.cancel(call.key.owner, request.batch_id)
            return pb.CancelBatchResponse(batch=batch(record))

    async def PauseBatch(  # noqa: N802
        self, request: pb.PauseBatchRequest, context: Context
    ) -> pb.PauseBatchResponse:
        """Begin no more lines for a while."""
        async with self._calls.call(context, request) as call:
            record = await self._service.pause(call.key.owner, request.batch_id)
            return pb.PauseBatchResponse(batch=batch(record))

    async def ResumeBatch(  # noqa: N802
        self, request: pb.ResumeBatchRequest, context: Context
    ) -> pb.ResumeBatchResponse:
        """Go on."""
        async with self._calls.call(context, request) as call:
            record = await self._service.resume(call.key.owner, request.batch_id)
            return pb.ResumeBatchResponse(batch=batch(record))

    async def RetryBatch(  # noqa: N802
        self, request: pb.RetryBatchRequest, context: Context
    ) -> pb.RetryBatchResponse:
        """Run the lines again that have no answer."""
        async with self._calls.call(context, request) as call:
            record = await self._service.retry(call.key, request.batch_id, request.request_id)
            return pb.RetryBatchResponse(batch=batch(record))


def _watched(record: batch_pb2.StoredBatch, meter: Meter, now: float) -> pb.WatchBatchResponse:
    """The batch, with its speed over the last seconds."""
    progress = record.progress
    ended = progress.completed + progress.failed
    tokens = prompt_tokens(progress.usage) + completion_tokens(progress.usage)
    speed = meter.see(now, ended, tokens, progress.total)
    return pb.WatchBatchResponse(
        batch=batch(record),
        lines_per_second=speed.lines,
        tokens_per_second=speed.tokens,
        seconds_left=int(speed.left_s),
        validated=progress.validated,
    )


def _estimated(found: Estimate) -> pb.EstimateBatchResponse:
    shown = pb.EstimateBatchResponse(
        total=found.total,
        input_tokens=found.input_tokens,
        output_tokens=found.output_tokens or 0,
        errors=found.errors,
        duplicates=found.duplicates,
        models=found.models,
        seconds=found.seconds or 0,
    )
    if found.low is not None:
        shown.low.CopyFrom(found.low)
    if found.high is not None:
        shown.high.CopyFrom(found.high)
    return shown
