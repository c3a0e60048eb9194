"""Says what an error of Google's API means: by its details first, its status, then by HTTP.

Source: google.rpc's error model and the API's error documentation.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import orjson

from broker.errors import InferenceError, reason_for_status
from workers.headers import request_id, retry_after

# error.status -> (reason, HTTP status). An error inside a stream has no HTTP status of its own.
_STATUSES: dict[str, tuple[str, int]] = {
    "INVALID_ARGUMENT": ("invalid_request", 400),
    "OUT_OF_RANGE": ("invalid_request", 400),
    "FAILED_PRECONDITION": ("invalid_request", 400),
    "UNAUTHENTICATED": ("upstream_credentials", 401),
    "PERMISSION_DENIED": ("upstream_credentials", 403),
    "NOT_FOUND": ("not_found", 404),
    "ALREADY_EXISTS": ("invalid_request", 409),
    "ABORTED": ("upstream_error", 409),
    "RESOURCE_EXHAUSTED": ("upstream_rate_limit", 429),
    "CANCELLED": ("upstream_error", 499),
    "DATA_LOSS": ("upstream_error", 500),
    "INTERNAL": ("upstream_error", 500),
    "UNKNOWN": ("upstream_error", 500),
    "UNIMPLEMENTED": ("invalid_request", 501),
    "UNAVAILABLE": ("upstream_overloaded", 503),
    "DEADLINE_EXCEEDED": ("upstream_error", 504),
}
# ErrorInfo.reason -> reason. Of keys and accounts, whatever the status: a wrong key is a 400.
_CREDENTIALS = re.compile(
    r"^(API_KEY_|ACCESS_TOKEN_|ACCOUNT_STATE_|BILLING_|CONSUMER_|CREDENTIALS_|IAM_|SERVICE_DISABLED"
    r"|SERVICE_NOT_VISIBLE|SECURITY_POLICY_|USER_PROJECT_|USER_BLOCKED)"
)
# What a status alone does not tell: (status, words of the message, reason).
_MESSAGES: tuple[tuple[str, re.Pattern[str], str], ...] = (
    (
        "INVALID_ARGUMENT",
        re.compile(
            r"exceeds the maximum (number of tokens|input)|input token count.*exceeds"
            r"|(prompt|input|request).{0,40} too (long|large)",
            re.IGNORECASE,
        ),
        "context_length_exceeded",
    ),
    (
        "INVALID_ARGUMENT",
        re.compile(r"API key (not valid|expired|not found)", re.IGNORECASE),
        "upstream_credentials",
    ),
    (
        "INVALID_ARGUMENT",
        re.compile(r"safety|responsible ai|prohibited|usage guidelines", re.IGNORECASE),
        "content_policy_violation",
    ),
    # The account's or the machine's fault, although the status blames the request.
    (
        "FAILED_PRECONDITION",
        re.compile(r"location|region|billing|country|free tier|api key", re.IGNORECASE),
        "upstream_credentials",
    ),
    ("PERMISSION_DENIED", re.compile(r"CachedContent not found", re.IGNORECASE), "not_found"),
    ("NOT_FOUND", re.compile(r"model", re.IGNORECASE), "model_not_found"),
)
# Fields of the request, as messages spell them, by the names the caller knows them under.
_PARAMS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(words, re.IGNORECASE), param)
    for words, param in (
        (r"response_?(json_?)?schema|response_?mime_?type|response mime type", "response_format"),
        (r"candidate_?count|multiple candidates", "n"),
        (r"max_?output_?tokens", "max_tokens"),
        (r"stop_?sequences", "stop"),
        (r"thinking_?(config|budget|level)|thinking (budget|level)", "reasoning_effort"),
        (r"presence_?penalty", "presence_penalty"),
        (r"frequency_?penalty", "frequency_penalty"),
        (r"\btop_?p\b", "top_p"),
        (r"\btop_?k\b", "top_k"),
        (r"\btemperature\b", "temperature"),
        (r"response_?logprobs|\blogprobs\b", "logprobs"),
        (r"response_?modalities", "modalities"),
        (r"speech_?config", "audio"),
        (r"safety_?settings", "safety_settings"),
        (r"cached_?content", "cached_content"),
        (r"tool_?config|function_?calling_?config", "tool_choice"),
        (r"function_?declarations|\btools\b", "tools"),
        (r"\bcontents\b|system_?instruction", "messages"),
    )
)
_DELAY = re.compile(r"retry in ([\d.]+) ?s", re.IGNORECASE)
_SHOWN = 500


def error_of(status: int, headers: Mapping[str, str], body: bytes) -> InferenceError:
    """The error of an answer with an error status, or of an error object in a stream (status 0)."""
    error = _error_object(body)
    if error is None:
        text = body[:_SHOWN].decode(errors="replace").strip()
        message = text or f"HTTP status {status}"
        return _made(reason_for_status(status or 500), message, status, headers, {})
    word = str(error.get("status") or "")
    code = error.get("code")
    message = str(error.get("message") or word or f"HTTP status {status}")
    by_code = code if isinstance(code, int) and code >= 400 else 500
    reason, word_status = _STATUSES.get(word, ("", by_code))
    status = status or word_status
    reason = reason or reason_for_status(status)
    for wanted, words, meaning in _MESSAGES:
        if word == wanted and words.search(message):
            reason = meaning
            break
    details = _details(error)
    if _CREDENTIALS.match(str(details.get("ErrorInfo", {}).get("reason") or "")):
        reason = "upstream_credentials"
    if reason == "upstream_rate_limit" and _is_daily(details):
        # Today nothing more will come: another account may help, waiting does not.
        reason = "upstream_quota"
    return _made(reason, message, status, headers, details)


def _error_object(body: bytes) -> dict[str, Any] | None:
    """The error; some paths wrap it in an array."""
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    if isinstance(answer, list) and answer:
        answer = answer[0]
    error = answer.get("error") if isinstance(answer, dict) else None
    return error if isinstance(error, dict) else None


def _details(error: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The details by the last word of their type, such as RetryInfo."""
    found = error.get("details")
    return {
        str(detail.get("@type") or "").rpartition(".")[2]: detail
        for detail in (found if isinstance(found, list) else ())
        if isinstance(detail, dict)
    }


def _is_daily(details: dict[str, dict[str, Any]]) -> bool:
    violations = details.get("QuotaFailure", {}).get("violations")
    return any(
        "PerDay" in str(violation.get("quotaId"))
        for violation in (violations if isinstance(violations, list) else ())
        if isinstance(violation, dict)
    )


def _made(
    reason: str,
    message: str,
    status: int,
    headers: Mapping[str, str],
    details: dict[str, dict[str, Any]],
) -> InferenceError:
    param = None
    if reason == "model_not_found":
        param = "model"
    elif reason == "invalid_request":
        param = _param(message, details)
    waits = reason in ("upstream_rate_limit", "upstream_overloaded")
    return InferenceError(
        reason,
        message,
        param=param,
        upstream_status=status,
        upstream_request_id=request_id(headers),
        retry_after=_wait(message, headers, details) if waits else None,
    )


def _param(message: str, details: dict[str, dict[str, Any]]) -> str | None:
    violations = details.get("BadRequest", {}).get("fieldViolations")
    fields = [
        str(violation.get("field") or violation.get("description"))
        for violation in (violations if isinstance(violations, list) else ())
        if isinstance(violation, dict)
    ]
    said = " ".join([*fields, message])
    return next((param for words, param in _PARAMS if words.search(said)), None)


def _wait(
    message: str, headers: Mapping[str, str], details: dict[str, dict[str, Any]]
) -> float | None:
    """Seconds to wait: Google says so in the body, in two ways, and never in a header."""
    told = retry_after(headers)
    if told is not None:
        return told
    delay = str(details.get("RetryInfo", {}).get("retryDelay") or "").removesuffix("s")
    found = _DELAY.search(message)
    for text in (delay, found[1] if found else ""):
        try:
            return max(0.0, float(text))
        except ValueError:
            continue
    return None
