"""Reads the bodies of the batch API and renders its objects; pure.

The plain shapes are OpenAI's. What goes beyond them is opt-in: fields of the body that their API
does not have, and `millrace` in the objects of batches that were asked for with one of them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any

from msgspec import Meta, Struct

from broker.catalog.cost import usd
from broker.translate.body import read_body, shaped
from broker.translate.lines import FORMS
from broker.translate.metadata import read_metadata
from broker.translate.refusals import invalid
from broker.translate.usage import completion_tokens, prompt_tokens
from broker.v1 import batch_pb2, event_pb2

ENDPOINTS = tuple(FORMS)
EXECUTIONS = ("live", "native", "auto")
# The window that OpenAI has.
DAY = "24h"
_WINDOW = re.compile(r"([1-9]\d{0,5})([mhd])")
_SECONDS = {"m": 60, "h": 3600, "d": 86_400}
SHORTEST_S, LONGEST_S = 600, 14 * 86_400
# How long the files may be kept that a batch writes.
FILES_KEPT_S = range(3600, 2_592_001)
_NANO = 1_000_000_000

_Status = batch_pb2.BatchStatus
# As the API spells them.
STATUSES: dict[int, str] = {
    value: name.removeprefix("BATCH_STATUS_").lower()
    for name, value in _Status.items()
    if value != batch_pb2.BATCH_STATUS_UNSPECIFIED
}
_TIMES = (
    "in_progress_at",
    "expires_at",
    "finalizing_at",
    "completed_at",
    "failed_at",
    "expired_at",
    "cancelling_at",
    "cancelled_at",
)


class ExpiresAfter(Struct):
    """When the files that a batch writes go."""

    anchor: str
    seconds: Annotated[int, Meta(ge=FILES_KEPT_S.start, le=FILES_KEPT_S[-1])]


class BatchBody(Struct):
    """The body of a new batch."""

    input_file_id: Annotated[str, Meta(min_length=1, max_length=128)]
    endpoint: str
    completion_window: str
    metadata: dict[str, str | None] | None = None
    output_expires_after: ExpiresAfter | None = None
    # Beyond the OpenAI API.
    mixed_models: bool = False
    large: bool = False
    dedupe: bool = False
    # USD.
    max_cost: Annotated[float, Meta(ge=1e-9, le=1e9)] | None = None
    # Of the lines that ended.
    max_error_rate: Annotated[float, Meta(ge=1e-6, le=1)] | None = None
    execution: str = "live"


class EstimateBody(Struct):
    """The body of an estimate: what the batch would be asked with."""

    input_file_id: Annotated[str, Meta(min_length=1, max_length=128)]
    endpoint: str
    completion_window: str = DAY
    mixed_models: bool = False
    large: bool = False
    dedupe: bool = False
    execution: str = "live"


def read_create(data: bytes) -> batch_pb2.StoredBatch:
    """A batch as it is asked for, without an id. Raises `InferenceError` invalid_request."""
    body = shaped(read_body(data), BatchBody)
    record = batch_pb2.StoredBatch(
        input_file_id=body.input_file_id,
        endpoint=one_of("endpoint", body.endpoint, ENDPOINTS),
        completion_window=body.completion_window,
        window_s=window_s(body.completion_window),
        metadata=read_metadata(body.metadata or {}),
        options=batch_pb2.BatchOptions(
            mixed_models=body.mixed_models,
            large=body.large,
            dedupe=body.dedupe,
            max_cost_nano=round((body.max_cost or 0) * _NANO),
            max_error_rate=body.max_error_rate or 0,
            execution=one_of("execution", body.execution, EXECUTIONS),
        ),
    )
    if (expires := body.output_expires_after) is not None:
        one_of("output_expires_after.anchor", expires.anchor, ("created_at",))
        record.output_expires_after_s = expires.seconds
    return record


def read_estimate(data: bytes) -> batch_pb2.StoredBatch:
    """The same of an estimate, which needs less."""
    body = shaped(read_body(data), EstimateBody)
    return batch_pb2.StoredBatch(
        input_file_id=body.input_file_id,
        endpoint=one_of("endpoint", body.endpoint, ENDPOINTS),
        window_s=window_s(body.completion_window),
        options=batch_pb2.BatchOptions(
            mixed_models=body.mixed_models,
            large=body.large,
            dedupe=body.dedupe,
            execution=one_of("execution", body.execution, EXECUTIONS),
        ),
    )


def window_s(text: str) -> int:
    """Seconds of a completion window such as `24h`. Raises `InferenceError` invalid_request."""
    found = _WINDOW.fullmatch(text)
    seconds = int(found[1]) * _SECONDS[found[2]] if found else 0
    if not SHORTEST_S <= seconds <= LONGEST_S:
        message = (
            f"Invalid value: '{text[:60]}'. Supported values are: '24h', and any time from '10m' "
            "to '14d' in minutes, hours or days."
        )
        raise invalid("completion_window", message)
    return seconds


def one_of(param: str, value: str, known: tuple[str, ...]) -> str:
    """The value, if it is one of those known. Raises `InferenceError` invalid_request."""
    if value not in known:
        names = ", ".join(f"'{name}'" for name in known)
        message = f"Invalid value: '{value[:60]}'. Supported values are: {names}."
        raise invalid(param, message)
    return value


def shown(record: batch_pb2.StoredBatch) -> dict[str, Any]:
    """The batch's object."""
    progress = record.progress
    body: dict[str, Any] = {
        "id": record.id,
        "object": "batch",
        "endpoint": record.endpoint,
        "model": record.model or None,
        "errors": errors_shown(record.errors),
        "input_file_id": record.input_file_id,
        "completion_window": record.completion_window,
        "status": STATUSES[record.status],
        "output_file_id": record.output_file_id or None,
        "error_file_id": record.error_file_id or None,
        "created_at": record.created_at,
        **{name: getattr(record, name) or None for name in _TIMES},
        "request_counts": {
            "total": progress.total,
            "completed": progress.completed,
            "failed": progress.failed,
        },
        "usage": _usage(progress.usage),
        "metadata": dict(record.metadata) or None,
    }
    if beyond := _beyond(record):
        body["millrace"] = beyond
    return body


def delays_shown(record: batch_pb2.StoredBatch) -> list[dict[str, Any]]:
    """Why lines wait that failed in a way that may pass: what their provider said last."""
    return [
        {
            "provider": delay.provider,
            "model": delay.model,
            "code": delay.code,
            "message": delay.message,
            "since": delay.since,
        }
        for delay in record.progress.delays
    ]


def errors_shown(errors: Sequence[batch_pb2.BatchError]) -> dict[str, Any] | None:
    """Mistakes of the input, or why a batch was stopped."""
    if not errors:
        return None
    data = [
        {
            "code": error.code,
            "message": error.message,
            "param": error.param or None,
            "line": error.line or None,
        }
        for error in errors
    ]
    return {"object": "list", "data": data}


def _usage(usage: event_pb2.Usage) -> dict[str, Any]:
    read, written = prompt_tokens(usage), completion_tokens(usage)
    return {
        "input_tokens": read,
        "input_tokens_details": {"cached_tokens": usage.cache_read_tokens},
        "output_tokens": written,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": read + written,
    }


def _beyond(record: batch_pb2.StoredBatch) -> dict[str, Any]:
    """What only those see who asked for something that the OpenAI API does not have."""
    options = record.options
    asked: dict[str, Any] = {
        "mixed_models": options.mixed_models,
        "large": options.large,
        "dedupe": options.dedupe,
        "max_cost": usd(options.max_cost_nano) if options.max_cost_nano else "",
        "max_error_rate": options.max_error_rate,
        "execution": "" if options.execution in {"", "live"} else options.execution,
        "paused": record.paused,
        "retry_of": record.retry_of,
    }
    found = {name: value for name, value in asked.items() if value}
    if "execution" in found:
        # The rest of the completed lines ran live, at the whole price.
        found["native"] = record.progress.native
    return {**found, "cost": usd(record.progress.cost.nano_usd)} if found else {}
