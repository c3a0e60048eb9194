"""Reads and shows batches as typed messages of the public gRPC API; pure."""

from __future__ import annotations

import orjson
from google.rpc import status_pb2

from broker.errors import InferenceError
from broker.translate.batches import DAY, ENDPOINTS, EXECUTIONS, FILES_KEPT_S, one_of, window_s
from broker.translate.metadata import read_metadata
from broker.translate.pages import DEFAULT_LIMIT, MAX_LIMIT
from broker.translate.refusals import invalid, missing
from broker.translate.rpc_errors import error_details
from broker.v1 import batch_pb2
from broker.v1 import batch_service_pb2 as pb


def read_create(request: pb.CreateBatchRequest) -> batch_pb2.StoredBatch:
    """A batch as it is asked for, without an id. Raises `InferenceError` invalid_request."""
    if not request.input_file_id:
        raise missing("input_file_id")
    window = request.completion_window or DAY
    expires = request.output_expires_after_s
    if expires and expires not in FILES_KEPT_S:
        message = f"Expected {FILES_KEPT_S.start} to {FILES_KEPT_S.stop - 1} seconds."
        raise invalid("output_expires_after_s", message)
    return batch_pb2.StoredBatch(
        input_file_id=request.input_file_id,
        endpoint=one_of("endpoint", request.endpoint, ENDPOINTS),
        completion_window=window,
        window_s=window_s(window),
        metadata=read_metadata(request.metadata),
        options=_options(request.options),
        output_expires_after_s=expires,
    )


def read_estimate(request: pb.EstimateBatchRequest) -> batch_pb2.StoredBatch:
    """The same of an estimate, which needs less."""
    if not request.input_file_id:
        raise missing("input_file_id")
    return batch_pb2.StoredBatch(
        input_file_id=request.input_file_id,
        endpoint=one_of("endpoint", request.endpoint, ENDPOINTS),
        window_s=window_s(request.completion_window or DAY),
        options=_options(request.options),
    )


def read_limit(request: pb.ListBatchesRequest) -> int:
    """How many are asked for at a time."""
    if not 0 <= request.limit <= MAX_LIMIT:
        raise invalid("limit", f"Invalid 'limit': expected a number from 1 to {MAX_LIMIT}.")
    return request.limit or DEFAULT_LIMIT


def read_cursor(text: str) -> int:
    """The line that a cursor stands for."""
    if not text:
        return 0
    if not (text.isascii() and text.isdigit() and len(text) < len(str(1 << 62))):
        raise invalid("after_cursor", "Invalid 'after_cursor': it is none of a result.")
    return int(text)


def _options(given: batch_pb2.BatchOptions) -> batch_pb2.BatchOptions:
    options = batch_pb2.BatchOptions()
    options.CopyFrom(given)
    options.execution = one_of("options.execution", given.execution or "live", EXECUTIONS)
    if given.max_cost_nano < 0:
        raise invalid("options.max_cost_nano", "Expected a number of at least 0.")
    if not 0 <= given.max_error_rate <= 1:
        raise invalid("options.max_error_rate", "Expected a number from 0 to 1.")
    return options


def batch(record: batch_pb2.StoredBatch) -> pb.Batch:
    """A batch as its caller may see it."""
    progress = record.progress
    return pb.Batch(
        id=record.id,
        input_file_id=record.input_file_id,
        endpoint=record.endpoint,
        status=record.status,
        completion_window=record.completion_window,
        metadata=record.metadata,
        options=record.options,
        paused=record.paused,
        created_at=record.created_at,
        expires_at=record.expires_at,
        ended_at=record.completed_at
        or record.failed_at
        or record.expired_at
        or record.cancelled_at,
        total=progress.total,
        completed=progress.completed,
        failed=progress.failed,
        usage=progress.usage,
        cost=progress.cost,
        errors=record.errors,
        output_file_id=record.output_file_id,
        error_file_id=record.error_file_id,
        retry_of=record.retry_of,
        delays=progress.delays,
        native=progress.native,
    )


def result(number: int, row: bytes, known: batch_pb2.LineResult | None) -> pb.ReadResultsResponse:
    """A row of a batch's files; `known` tells of usage and cost."""
    read = orjson.loads(row)
    shown = pb.ReadResultsResponse(cursor=str(number), line=number, custom_id=read["custom_id"])
    if (response := read["response"]) is not None:
        shown.status = response["status_code"]
        shown.body_json = orjson.dumps(response["body"])
    else:
        error = read["error"]
        shown.error.CopyFrom(_status(error["code"], error["message"]))
    if known is not None:
        shown.usage.CopyFrom(known.usage)
        shown.cost.CopyFrom(known.cost)
    return shown


# What lines end with that have no answer: anything else is a fault of ours.
_REASONS = {
    "batch_expired": "deadline",
    "batch_cancelled": "client_gone",
    "request_timeout": "deadline",
}


def _status(code: str, message: str) -> status_pb2.Status:
    return error_details(InferenceError(_REASONS.get(code, "internal"), message, code=code))
