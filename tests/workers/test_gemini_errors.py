"""What errors of Google's API mean."""

from __future__ import annotations

import json
from typing import Any

import pytest

from broker.errors import InferenceError
from tests.workers.gemini_hub import GEMINI

TYPE = "type.googleapis.com/google.rpc."


def error(
    status: int, word: str, message: str = "No.", *details: Any, **headers: str
) -> InferenceError:
    owner = {"code": status, "message": message, "status": word, "details": list(details)}
    return GEMINI.dialect.error(status, headers, json.dumps({"error": owner}).encode())


def info(reason: str) -> dict[str, str]:
    return {"@type": TYPE + "ErrorInfo", "reason": reason, "domain": "googleapis.com"}


@pytest.mark.parametrize(
    ("status", "word", "reason"),
    [
        (400, "INVALID_ARGUMENT", "invalid_request"),
        (400, "FAILED_PRECONDITION", "invalid_request"),
        (400, "OUT_OF_RANGE", "invalid_request"),
        (401, "UNAUTHENTICATED", "upstream_credentials"),
        (403, "PERMISSION_DENIED", "upstream_credentials"),
        (404, "NOT_FOUND", "not_found"),
        (409, "ABORTED", "upstream_error"),
        (429, "RESOURCE_EXHAUSTED", "upstream_rate_limit"),
        (499, "CANCELLED", "upstream_error"),
        (500, "INTERNAL", "upstream_error"),
        (501, "UNIMPLEMENTED", "invalid_request"),
        (503, "UNAVAILABLE", "upstream_overloaded"),
        (504, "DEADLINE_EXCEEDED", "upstream_error"),
        (418, "A_LATER_ONE", "invalid_request"),
        (502, "A_LATER_ONE", "upstream_error"),
    ],
)
def test_a_status_of_googles_has_a_reason(status: int, word: str, reason: str) -> None:
    found = error(status, word)
    assert (found.reason, found.message, found.upstream_status) == (reason, "No.", status)


@pytest.mark.parametrize(
    ("status", "word", "reason"),
    [
        (400, "INVALID_ARGUMENT", "API_KEY_INVALID"),
        (403, "PERMISSION_DENIED", "SERVICE_DISABLED"),
        (403, "PERMISSION_DENIED", "API_KEY_SERVICE_BLOCKED"),
        (400, "FAILED_PRECONDITION", "BILLING_DISABLED"),
        (429, "RESOURCE_EXHAUSTED", "CONSUMER_SUSPENDED"),
    ],
)
def test_what_is_wrong_with_the_key_is_our_fault_whatever_the_status(
    status: int, word: str, reason: str
) -> None:
    assert error(status, word, "x", info(reason)).reason == "upstream_credentials"


@pytest.mark.parametrize(
    ("status", "word", "message", "reason", "param"),
    [
        (
            400,
            "INVALID_ARGUMENT",
            "API key expired. Please renew the API key.",
            "upstream_credentials",
            None,
        ),
        (
            400,
            "FAILED_PRECONDITION",
            "User location is not supported for the API use.",
            "upstream_credentials",
            None,
        ),
        (
            400,
            "INVALID_ARGUMENT",
            "The input token count (1048577) exceeds the maximum number of tokens allowed (1048576).",
            "context_length_exceeded",
            None,
        ),
        (
            404,
            "NOT_FOUND",
            "models/x is not found for API version v1beta, or is not supported for generateContent.",
            "model_not_found",
            "model",
        ),
        (
            403,
            "PERMISSION_DENIED",
            "CachedContent not found (or permission denied)",
            "not_found",
            None,
        ),
        (
            400,
            "INVALID_ARGUMENT",
            "Function calling with a response mime type: 'application/json' is unsupported",
            "invalid_request",
            "response_format",
        ),
        (
            400,
            "INVALID_ARGUMENT",
            "Budget 0 is invalid. Use a valid thinking_budget.",
            "invalid_request",
            "reasoning_effort",
        ),
        (400, "INVALID_ARGUMENT", "Unknown reason.", "invalid_request", None),
    ],
)
def test_the_message_tells_what_the_status_does_not(
    status: int, word: str, message: str, reason: str, param: str | None
) -> None:
    found = error(status, word, message)
    assert (found.reason, found.param, found.message) == (reason, param, message)


def test_a_violated_field_is_named_as_the_caller_knows_it() -> None:
    violation = {"field": "generation_config.top_p", "description": "must be in [0, 1]"}
    bad = {"@type": TYPE + "BadRequest", "fieldViolations": [violation]}
    assert error(400, "INVALID_ARGUMENT", "Invalid value.", bad).param == "top_p"


def retry(delay: str) -> dict[str, str]:
    return {"@type": TYPE + "RetryInfo", "retryDelay": delay}


@pytest.mark.parametrize(
    ("message", "details", "headers", "seconds"),
    [
        ("x", [retry("48s")], {}, 48.0),
        ("Please retry in 21.5s.", [retry("48.25s")], {}, 48.25),
        ("Please retry in 21.5s.", [], {}, 21.5),
        ("x", [retry("soon")], {}, None),
        ("x", [], {}, None),
        ("x", [retry("48s")], {"retry-after": "3"}, 3.0),
    ],
)
def test_how_long_to_wait_is_in_the_body(
    message: str, details: list[Any], headers: dict[str, str], seconds: float | None
) -> None:
    found = error(429, "RESOURCE_EXHAUSTED", message, *details, **headers)
    assert (found.reason, found.retry_after) == ("upstream_rate_limit", seconds)


def test_a_quota_of_the_day_is_spent_however_short_the_hint() -> None:
    violation = {"quotaId": "GenerateRequestsPerDayPerProjectPerModel"}
    quota = {"@type": TYPE + "QuotaFailure", "violations": [violation]}
    found = error(429, "RESOURCE_EXHAUSTED", "x", quota, retry("5s"))
    assert (found.reason, found.retry_after) == ("upstream_quota", None)


def test_an_error_in_an_array_is_read_too() -> None:
    owner = {"error": {"code": 503, "message": "Busy.", "status": "UNAVAILABLE"}}
    found = GEMINI.dialect.error(503, {}, json.dumps([owner]).encode())
    assert (found.reason, found.message) == ("upstream_overloaded", "Busy.")


@pytest.mark.parametrize(
    "body", [b"", b"<html>Bad gateway</html>", b"[]", b'{"error": "x"}', b"\xff"]
)
def test_an_error_of_somebody_else_goes_by_its_http_status(body: bytes) -> None:
    found = GEMINI.dialect.error(502, {}, body)
    assert (found.reason, found.upstream_status) == ("upstream_error", 502)
    assert found.message
