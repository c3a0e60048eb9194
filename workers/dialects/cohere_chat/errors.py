"""Says what an error of Cohere's API means: by its status, and by its message where that lies."""

from __future__ import annotations

import re
from collections.abc import Mapping

import orjson

from broker.errors import InferenceError, reason_for_status
from workers.headers import request_id, retry_after

_SHOWN = 500

# Statuses that mean something else here than elsewhere.
# Source: the error classes of the official SDK.
_STATUSES = {
    402: "upstream_quota",
    404: "not_found",
    498: "upstream_credentials",  # invalid token
    499: "upstream_error",  # the connection to Cohere was given up on the way
}
_TYPES = {"TOO_MANY_TOKENS": "context_length_exceeded"}
# For what is said in prose alone: statuses it is believed with, words, reason.
_MESSAGES: tuple[tuple[tuple[int, ...], re.Pattern[str], str], ...] = (
    ((400, 422), re.compile(r"too many tokens", re.IGNORECASE), "context_length_exceeded"),
    (
        (400, 404, 422),
        re.compile(r"model .*(not found|was removed|does not exist)", re.IGNORECASE),
        "model_not_found",
    ),
    # A month is no time to wait.
    ((429,), re.compile(r"calls? */ *month|per month|monthly", re.IGNORECASE), "upstream_quota"),
)
# Fields that a message begins with, by the names the caller knows them under.
_PARAMS = {
    "documents": "documents",
    "frequency_penalty": "frequency_penalty",
    "input_type": "input_type",
    "k": "top_k",
    "max_tokens": "max_tokens",
    "messages": "messages",
    "model": "model",
    "output_dimension": "dimensions",
    "p": "top_p",
    "presence_penalty": "presence_penalty",
    "query": "query",
    "response_format": "response_format",
    "seed": "seed",
    "stop_sequences": "stop",
    "temperature": "temperature",
    "texts": "input",
    "thinking": "reasoning_effort",
    "tool_choice": "tool_choice",
    "tools": "tools",
}
_FIRST_FIELD = re.compile(r"^(?:invalid request: )?(?:parameter )?[`']?([a-z_]+)\b")


def error_of(status: int, headers: Mapping[str, str], body: bytes) -> InferenceError:
    """The error of an answer with an error status."""
    try:
        said = orjson.loads(body)
    except orjson.JSONDecodeError:
        said = None
    if isinstance(said, dict):
        message = said.get("message")
        message = message if isinstance(message, str) else ""
        kind = str(said.get("error_type") or "")
    else:
        message, kind = body[:_SHOWN].decode(errors="replace").strip(), ""
    reason = _reason(status, kind, message)
    param = None
    if reason == "model_not_found":
        param = "model"
    elif reason == "invalid_request" and (found := _FIRST_FIELD.match(message)):
        param = _PARAMS.get(found[1])
    return InferenceError(
        reason,
        message or f"Cohere answered with status {status} and no message",
        param=param,
        code="insufficient_quota" if reason == "upstream_quota" else None,
        upstream_status=status,
        upstream_request_id=request_id(headers),
        retry_after=retry_after(headers),
    )


def _reason(status: int, kind: str, message: str) -> str:
    if kind in _TYPES:
        return _TYPES[kind]
    for statuses, words, reason in _MESSAGES:
        if status in statuses and words.search(message):
            return reason
    return _STATUSES.get(status) or reason_for_status(status)
