"""Says what an error of Bedrock means: by its code, then by the message, last by the status."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import orjson

from broker.errors import InferenceError, reason_for_status
from workers.headers import request_id, retry_after

_SHOWN = 500

# Code in lower case without "exception" -> (reason, status). Codes inside a stream begin with a
# small letter and have no status but this. Source: the errors of the service model, and AWS's
# common errors.
_CODES: dict[str, tuple[str, int]] = {
    "accessdenied": ("upstream_credentials", 403),
    "conflict": ("upstream_error", 400),
    "expiredtoken": ("upstream_credentials", 403),
    "incompletesignature": ("upstream_credentials", 403),
    "internalserver": ("upstream_error", 500),
    "invalidclienttokenid": ("upstream_credentials", 403),
    "invalidsignature": ("upstream_credentials", 403),
    "missingauthenticationtoken": ("upstream_credentials", 403),
    "modelerror": ("upstream_error", 424),
    "modelnotready": ("upstream_rate_limit", 429),
    "modelstreamerror": ("upstream_error", 424),
    "modeltimeout": ("upstream_error", 408),
    "notauthorized": ("upstream_credentials", 403),
    "optinrequired": ("upstream_credentials", 403),
    "resourcenotfound": ("model_not_found", 404),
    "servicequotaexceeded": ("upstream_quota", 400),
    "serviceunavailable": ("upstream_overloaded", 503),
    "signaturedoesnotmatch": ("upstream_credentials", 403),
    "throttling": ("upstream_rate_limit", 429),
    "unrecognizedclient": ("upstream_credentials", 403),
    # A model's id that was taken for a path.
    "unknownoperation": ("model_not_found", 404),
    "validation": ("invalid_request", 400),
}
# What a refused request does not tell by its code.
_MESSAGES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"model identifier is invalid", re.IGNORECASE), "model_not_found"),
    (
        re.compile(
            r"input is too long|input tokens exceeded|prompt is too long|too many input tokens"
            r"|(exceeds?|maximum|longer than).{0,60}context (length|window)",
            re.IGNORECASE,
        ),
        "context_length_exceeded",
    ),
)
_EXPLAINED = ("invalid_request", "unprocessable")
# Words of a message about the model itself.
_ABOUT_MODEL = re.compile(r"on-demand throughput|inference profile|model id\b", re.IGNORECASE)
# Fields that a message names, by the names the caller knows them under; the longest wins.
_PARAMS = {
    "inferenceConfig.maxTokens": "max_tokens",
    "inferenceConfig.stopSequences": "stop",
    "inferenceConfig.temperature": "temperature",
    "inferenceConfig.topP": "top_p",
    "messages": "messages",
    "modelId": "model",
    "outputConfig": "response_format",
    "requestMetadata": "metadata",
    "serviceTier": "service_tier",
    "system": "messages",
    "toolConfig": "tools",
    "toolConfig.toolChoice": "tool_choice",
    "tools": "tools",
}
_FIELD = re.compile(r"(?:at '|^|value at )([a-zA-Z]+(?:\.[a-zA-Z]+)?)")


def error_of(status: int, headers: Mapping[str, str], body: bytes) -> InferenceError:
    """The error of an answer with an error status."""
    said = _object(body)
    message = _message(said) or ("" if said else body[:_SHOWN].decode(errors="replace").strip())
    # The code is followed by a colon and an address.
    code = headers.get("x-amzn-errortype", "").partition(":")[0]
    return _error(code or str(said.get("__type") or ""), message, status, headers)


def error_in_answer(code: str, body: bytes, headers: Mapping[str, str]) -> InferenceError:
    """The error that a stream ends with, or that stands in an answer with status 200."""
    said = _object(body)
    if not code:
        output = said.get("Output")
        code = str(output.get("__type") or "") if isinstance(output, dict) else ""
    _, status = _known(code) or ("", 0)
    original = said.get("originalStatusCode")
    if status == 0 and isinstance(original, int):
        status = original
    message = _message(said) or str(said.get("originalMessage") or "")
    return _error(code, message, status, headers)


def _known(code: str) -> tuple[str, int] | None:
    # "com.amazon.coral.service#UnknownOperationException"
    word = code.rpartition("#")[2].lower().removesuffix("exception")
    return _CODES.get(word)


def _error(code: str, message: str, status: int, headers: Mapping[str, str]) -> InferenceError:
    known = _known(code)
    reason = known[0] if known else reason_for_status(status or 500)
    if reason in _EXPLAINED:
        reason = next((meant for words, meant in _MESSAGES if words.search(message)), reason)
    param = None
    if reason == "model_not_found":
        param = "model"
    elif reason == "invalid_request":
        param = _param(message)
    return InferenceError(
        reason,
        message or f"Bedrock answered with {code or f'status {status}'} and no message",
        param=param,
        code="insufficient_quota" if reason == "upstream_quota" else None,
        upstream_status=status,
        upstream_request_id=request_id(headers),
        retry_after=retry_after(headers),
    )


def _param(message: str) -> str | None:
    if _ABOUT_MODEL.search(message):
        return "model"
    for found in _FIELD.finditer(message):
        for path in (found[1], found[1].partition(".")[0]):
            if path in _PARAMS:
                return _PARAMS[path]
    return None


def _object(body: bytes) -> dict[str, Any]:
    try:
        said = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return said if isinstance(said, dict) else {}


def _message(said: dict[str, Any]) -> str:
    message = said.get("message") or said.get("Message")
    return message if isinstance(message, str) else ""
