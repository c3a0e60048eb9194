"""Says what an error of the Messages API means: by the body's type first, then by the status."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import orjson

from broker.errors import InferenceError, reason_for_status
from workers.headers import request_id, retry_after

# error.type -> (reason, status). An error inside a stream has no status but its type's.
# Source: the API's error documentation and the SDK's error types.
_TYPES: dict[str, tuple[str, int]] = {
    "invalid_request_error": ("invalid_request", 400),
    "authentication_error": ("upstream_credentials", 401),
    "billing_error": ("upstream_credentials", 402),
    "permission_error": ("upstream_credentials", 403),
    "not_found_error": ("model_not_found", 404),
    "conflict_error": ("upstream_error", 409),
    "request_too_large": ("request_too_large", 413),
    "rate_limit_error": ("upstream_rate_limit", 429),
    "api_error": ("upstream_error", 500),
    "timeout_error": ("upstream_error", 504),
    "overloaded_error": ("upstream_overloaded", 529),
}
# Types that say no more than "it failed" leave the word to the status.
_VAGUE = frozenset({"invalid_request_error", "conflict_error", "api_error", "timeout_error"})
_NO_MONEY = ("upstream_credentials", "insufficient_quota")
# What a type alone does not tell: (type, words of the message, (reason, code)).
_MESSAGES: tuple[tuple[str, re.Pattern[str], tuple[str, str | None]], ...] = (
    (
        "invalid_request_error",
        re.compile(
            r"prompt is too long|exceed(s|ed)? (the )?context (limit|window)", re.IGNORECASE
        ),
        ("context_length_exceeded", None),
    ),
    # The account's fault, although the status blames the request.
    ("invalid_request_error", re.compile("credit balance", re.IGNORECASE), _NO_MONEY),
    (
        "invalid_request_error",
        re.compile("content filtering policy", re.IGNORECASE),
        ("content_policy_violation", None),
    ),
    ("not_found_error", re.compile(r"\bfile", re.IGNORECASE), ("not_found", None)),
)
# details.error_code of a 429 that waiting does not help.
_SPENT = frozenset(
    {
        "contract_spend_limit_reached",
        "enforced_spend_limit_reached",
        "linked_organization_spend_limit_reached",
        "ramp_limit_exceeded",
    }
)
# Fields that a message begins with, by the names the caller knows them under.
_PARAMS = {
    "max_tokens": "max_tokens",
    "messages": "messages",
    "metadata": "user",
    "model": "model",
    "output_config": "response_format",
    "stop_sequences": "stop",
    "temperature": "temperature",
    "thinking": "reasoning_effort",
    "tool_choice": "tool_choice",
    "tools": "tools",
    "top_k": "top_k",
    "top_p": "top_p",
}
_FIRST_FIELD = re.compile(r"^`?([a-z_]+)(?:\.[\w.]+)?`?: ")
_SHOWN = 500


def error_of(status: int, headers: Mapping[str, str], body: bytes) -> InferenceError:
    """The error of an answer with an error status, or of an error event (status 0)."""
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        answer = None
    error = answer.get("error") if isinstance(answer, dict) else None
    if not isinstance(error, dict):
        text = body[:_SHOWN].decode(errors="replace").strip()
        return _error(reason_for_status(status), text or f"HTTP status {status}", status, headers)
    kind = str(error.get("type") or "")
    message = str(error.get("message") or kind or f"HTTP status {status}")
    reason, type_status = _TYPES.get(kind, (reason_for_status(status or 500), 500))
    status = status or type_status
    if kind in _VAGUE:
        reason = reason_for_status(status)
    code = None
    for wanted, words, meaning in _MESSAGES:
        if kind == wanted and words.search(message):
            reason, code = meaning
    if _error_code(error) in _SPENT:
        reason, code = _NO_MONEY
    found = _error(reason, message, status, headers, code)
    if not found.upstream_request_id and isinstance(answer, dict):
        found.upstream_request_id = str(answer.get("request_id") or "")
    return found


def _error_code(error: dict[str, Any]) -> str | None:
    details = error.get("details")
    code = details.get("error_code") if isinstance(details, dict) else None
    return code if isinstance(code, str) else None


def _error(
    reason: str,
    message: str,
    status: int,
    headers: Mapping[str, str],
    code: str | None = None,
) -> InferenceError:
    param = None
    if reason == "model_not_found":
        param = "model"
    elif reason == "invalid_request" and (field := _FIRST_FIELD.match(message)):
        param = _PARAMS.get(field[1])
    return InferenceError(
        reason,
        message,
        param=param,
        code=code,
        upstream_status=status,
        upstream_request_id=request_id(headers),
        retry_after=retry_after(headers),
    )
