"""Bodies of the batch API, and the objects that it answers with."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from broker.errors import InferenceError
from broker.translate.batches import ENDPOINTS, read_create, read_estimate, shown, window_s
from broker.v1 import batch_pb2, event_pb2

PLAIN = {
    "input_file_id": "file-1",
    "endpoint": "/v1/chat/completions",
    "completion_window": "24h",
}


def create(**more: Any) -> batch_pb2.StoredBatch:
    return read_create(orjson.dumps(PLAIN | more))


def refused(body: dict[str, Any]) -> tuple[str | None, str]:
    with pytest.raises(InferenceError) as caught:
        read_create(orjson.dumps(body))
    assert caught.value.reason == "invalid_request"
    return caught.value.param, caught.value.code or ""


def test_a_plain_batch_has_the_shape_of_openai_and_nothing_else() -> None:
    record = create(metadata={"team": "x", "gone": None})
    record.id, record.created_at, record.expires_at = "batch_1", 5, 86_405
    record.status = batch_pb2.BATCH_STATUS_VALIDATING
    assert shown(record) == {
        "id": "batch_1",
        "object": "batch",
        "endpoint": "/v1/chat/completions",
        "model": None,
        "errors": None,
        "input_file_id": "file-1",
        "completion_window": "24h",
        "status": "validating",
        "output_file_id": None,
        "error_file_id": None,
        "created_at": 5,
        "in_progress_at": None,
        "expires_at": 86_405,
        "finalizing_at": None,
        "completed_at": None,
        "failed_at": None,
        "expired_at": None,
        "cancelling_at": None,
        "cancelled_at": None,
        "request_counts": {"total": 0, "completed": 0, "failed": 0},
        "usage": {
            "input_tokens": 0,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": 0,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 0,
        },
        "metadata": {"team": "x"},
    }


def test_counts_usage_and_errors_are_shown() -> None:
    record = create()
    record.status = batch_pb2.BATCH_STATUS_FAILED
    record.progress.total, record.progress.completed, record.progress.failed = 10, 6, 1
    record.progress.usage.CopyFrom(
        event_pb2.Usage(
            input_tokens=100, cache_read_tokens=20, output_tokens=30, reasoning_tokens=5
        )
    )
    record.errors.add(code="invalid_json_line", message="not JSON", line=7)
    body = shown(record)
    assert body["request_counts"] == {"total": 10, "completed": 6, "failed": 1}
    assert body["usage"] == {
        "input_tokens": 120,
        "input_tokens_details": {"cached_tokens": 20},
        "output_tokens": 35,
        "output_tokens_details": {"reasoning_tokens": 5},
        "total_tokens": 155,
    }
    assert body["errors"] == {
        "object": "list",
        "data": [{"code": "invalid_json_line", "message": "not JSON", "param": None, "line": 7}],
    }


def test_what_goes_beyond_is_shown_to_those_who_asked_for_it() -> None:
    record = create(mixed_models=True, max_cost=1.5, max_error_rate=0.25, dedupe=True)
    assert record.options.max_cost_nano == 1_500_000_000
    record.status = batch_pb2.BATCH_STATUS_IN_PROGRESS
    record.progress.cost.nano_usd = 250_000_000
    assert shown(record)["millrace"] == {
        "mixed_models": True,
        "dedupe": True,
        "max_cost": "1.5",
        "max_error_rate": 0.25,
        "cost": "0.25",
    }


def test_output_expires_after_is_kept() -> None:
    expires = {"anchor": "created_at", "seconds": 3600}
    assert create(output_expires_after=expires).output_expires_after_s == 3600


@pytest.mark.parametrize(
    ("window", "seconds"),
    [("24h", 86_400), ("10m", 600), ("90m", 5400), ("14d", 1_209_600), ("336h", 1_209_600)],
)
def test_windows_from_ten_minutes_to_fourteen_days_are_taken(window: str, seconds: int) -> None:
    assert window_s(window) == seconds == create(completion_window=window).window_s


@pytest.mark.parametrize("name", sorted(PLAIN))
def test_what_is_missing_is_named(name: str) -> None:
    body = {key: value for key, value in PLAIN.items() if key != name}
    assert refused(body) == (name, "missing_required_parameter")


@pytest.mark.parametrize(
    ("field", "value", "param", "code"),
    [
        ("completion_window", "9m", "completion_window", "invalid_value"),
        ("completion_window", "15d", "completion_window", "invalid_value"),
        ("completion_window", "24", "completion_window", "invalid_value"),
        ("completion_window", "٢٤h", "completion_window", "invalid_value"),
        ("completion_window", 24, "completion_window", "invalid_type"),
        ("endpoint", "/v1/messages", "endpoint", "invalid_value"),
        ("endpoint", "chat/completions", "endpoint", "invalid_value"),
        ("input_file_id", "", "input_file_id", "empty_string"),
        ("input_file_id", 5, "input_file_id", "invalid_type"),
        ("metadata", [], "metadata", "invalid_type"),
        ("metadata", {"k": "v" * 513}, "metadata.k", "string_above_max_length"),
        (
            "metadata",
            {str(n): "" for n in range(17)},
            "metadata",
            "object_above_max_properties",
        ),
        (
            "output_expires_after",
            {"anchor": "created_at", "seconds": 60},
            "output_expires_after.seconds",
            "integer_below_min_value",
        ),
        (
            "output_expires_after",
            {"anchor": "last_used", "seconds": 3600},
            "output_expires_after.anchor",
            "invalid_value",
        ),
        ("max_error_rate", 1.5, "max_error_rate", "decimal_above_max_value"),
        ("max_cost", 0, "max_cost", "decimal_below_min_value"),
        ("execution", "later", "execution", "invalid_value"),
    ],
)
def test_what_is_wrong_is_named(field: str, value: Any, param: str, code: str) -> None:
    found, told = refused(PLAIN | {field: value})
    assert found == param
    assert told == code


def test_every_endpoint_of_openai_that_has_a_form_here_is_taken() -> None:
    for endpoint in ENDPOINTS:
        assert create(endpoint=endpoint).endpoint == endpoint


def test_an_estimate_needs_no_window() -> None:
    body = {"input_file_id": "file-1", "endpoint": "/v1/embeddings", "large": True}
    record = read_estimate(orjson.dumps(body))
    assert (record.input_file_id, record.endpoint) == ("file-1", "/v1/embeddings")
    assert record.options.large
    assert (record.window_s, record.options.dedupe) == (86_400, False)
    record = read_estimate(orjson.dumps(body | {"completion_window": "2h", "dedupe": True}))
    assert (record.window_s, record.options.dedupe) == (7200, True)
