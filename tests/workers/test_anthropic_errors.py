from __future__ import annotations

import json
from typing import Any

import pytest

from tests.workers.anthropic_hub import ANTHROPIC

LONG = "prompt is too long: 3333404 tokens > 200000 maximum"
OVER = "input length and `max_tokens` exceed context limit: 199000 + 8192 > 200000"
POOR = "Your credit balance is too low to access the Anthropic API."

# (status, type, message, details, reason, code, param)
# fmt: off
ERRORS: list[tuple[int, str, str, Any, str, str | None, str | None]] = [
    (400, "invalid_request_error", "messages: at least one", None, "invalid_request", None, "messages"),
    (400, "invalid_request_error", "messages.3.content.0: no", None, "invalid_request", None, "messages"),
    (400, "invalid_request_error", "max_tokens: 9 > 8", None, "invalid_request", None, "max_tokens"),
    (400, "invalid_request_error", "output_config.format.schema: no", None, "invalid_request", None, "response_format"),
    (400, "invalid_request_error", "Something: else", None, "invalid_request", None, None),
    (400, "invalid_request_error", LONG, None, "context_length_exceeded", "context_length_exceeded", None),
    (400, "invalid_request_error", OVER, None, "context_length_exceeded", "context_length_exceeded", None),
    (400, "invalid_request_error", POOR, None, "upstream_credentials", "insufficient_quota", None),
    (400, "invalid_request_error", "Output blocked by content filtering policy", None, "content_policy_violation", "content_policy_violation", None),
    (401, "authentication_error", "invalid x-api-key", None, "upstream_credentials", "upstream_credentials", None),
    (402, "billing_error", "pay", None, "upstream_credentials", "upstream_credentials", None),
    (403, "permission_error", "no", None, "upstream_credentials", "upstream_credentials", None),
    (404, "not_found_error", "model: claude-0", None, "model_not_found", "model_not_found", "model"),
    (404, "not_found_error", "File not found", None, "not_found", "not_found", None),
    (408, "timeout", "slow", None, "upstream_error", "upstream_error", None),
    (409, "conflict_error", "again", None, "upstream_error", "upstream_error", None),
    (413, "request_too_large", "big", None, "request_too_large", "request_too_large", None),
    (422, "unprocessable", "no", None, "unprocessable", None, None),
    (429, "rate_limit_error", "wait", None, "upstream_rate_limit", "rate_limit_exceeded", None),
    (429, "rate_limit_error", "spent", {"error_code": "enforced_spend_limit_reached"}, "upstream_credentials", "insufficient_quota", None),
    (429, "rate_limit_error", "spent", {"error_code": "of_next_year"}, "upstream_rate_limit", "rate_limit_exceeded", None),
    (500, "api_error", "oops", None, "upstream_error", "upstream_error", None),
    (503, "api_error", "oops", None, "upstream_overloaded", "upstream_overloaded", None),
    (504, "timeout_error", "slow", None, "upstream_error", "upstream_error", None),
    (529, "overloaded_error", "Overloaded", None, "upstream_overloaded", "upstream_overloaded", None),
    (529, "of_next_year", "Overloaded", None, "upstream_overloaded", "upstream_overloaded", None),
]
# fmt: on


@pytest.mark.parametrize(
    ("status", "kind", "message", "details", "meaning"),
    [(*row[:4], row[4:]) for row in ERRORS],
)
def test_an_error_means_what_its_body_says(
    status: int, kind: str, message: str, details: Any, meaning: tuple[str | None, ...]
) -> None:
    told = {"type": kind, "message": message} | ({"details": details} if details else {})
    answer = {"type": "error", "error": told, "request_id": "req_of_the_body"}
    error = ANTHROPIC.dialect.error(status, {"retry-after": "7"}, json.dumps(answer).encode())
    assert (error.reason, error.code, error.param) == meaning
    assert (error.message, error.upstream_status) == (message, status)
    assert (error.upstream_request_id, error.retry_after) == ("req_of_the_body", 7.0)


@pytest.mark.parametrize(
    ("status", "answer", "reason", "message"),
    [
        (502, b"<html>Bad Gateway</html>", "upstream_error", "<html>Bad Gateway</html>"),
        (503, b"", "upstream_overloaded", "HTTP status 503"),
        (401, b'{"error": "no"}', "upstream_credentials", '{"error": "no"}'),
        (500, b"\xff", "upstream_error", "\ufffd"),
    ],
)
def test_an_error_of_another_shape_means_what_its_status_says(
    status: int, answer: bytes, reason: str, message: str
) -> None:
    error = ANTHROPIC.dialect.error(status, {"request-id": "req_1"}, answer)
    assert (error.reason, error.message) == (reason, message)
    assert (error.upstream_status, error.upstream_request_id) == (status, "req_1")
