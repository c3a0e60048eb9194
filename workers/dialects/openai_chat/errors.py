"""What an error says, in all the shapes that OpenAI-format servers give it."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from broker.errors import InferenceError, reason_for_status
from workers.headers import request_id, retry_after

_TEXT_LIMIT = 500
# How often one error may stand within another.
_DEPTH = 4
# Where servers put what they say. A title is what all errors of its kind are called.
_MESSAGES = ("message", "Message", "msg", "error_message", "error_description", "title")

# By the provider's code, else by its type, in lower case. Only words that are more precise than
# the status they come with.
_BY_WORD = {
    "capacity_exceeded": "upstream_overloaded",
    "content_filter": "content_policy_violation",
    "content_policy_violation": "content_policy_violation",
    "context_length_exceeded": "context_length_exceeded",
    "credit_balance_exhausted": "upstream_quota",
    "deploymentnotfound": "model_not_found",
    "insufficient_quota": "upstream_quota",
    "invalid_api_key": "upstream_credentials",
    "invalid_model": "model_not_found",
    "model_not_found": "model_not_found",
    "model_not_supported": "model_not_found",
    "moderation_blocked": "content_policy_violation",
    "responsibleaipolicyviolation": "content_policy_violation",
    "server_is_overloaded": "upstream_overloaded",
    "too_many_prompt_tokens": "context_length_exceeded",
    "unsupported_parameter": "unsupported_parameter",
}

# For servers that say it in prose alone: statuses it is believed with, pattern, reason.
_BY_MESSAGE: tuple[tuple[tuple[int, ...], re.Pattern[str], str], ...] = tuple(
    (statuses, re.compile("|".join(patterns), re.IGNORECASE), reason)
    for statuses, reason, patterns in (
        (
            (400, 403, 413, 422),
            "context_length_exceeded",
            (
                r"context[ _](length|window)",
                r"prompt( is)? too long",
                r"too many (input |prompt )?tokens",
                r"input is too long",
                r"request too large for model",
                r"maximum (prompt|input) length",
                r"max_(new_)?tokens`? must be <=",
            ),
        ),
        ((400,), "upstream_credentials", (r"(incorrect|invalid|missing) api[ -]?key",)),
        (
            (400, 403),
            "content_policy_violation",
            (
                r"content (management )?policy",
                r"safety system",
                r"requires moderation",
            ),
        ),
        (
            (400, 422),
            "model_not_found",
            (
                r"\bmodel\b.{0,120}not exist",
                r"\bmodel\b.{0,120}not found",
                r"is not a valid model",
                r"unknown model",
            ),
        ),
    )
)

# Inside a stream the HTTP status is lost; the type tells what it would have been.
_STATUS_BY_WORD = {
    "api_error": 500,
    "authentication_error": 401,
    "credit_balance_exhausted": 429,
    "insufficient_quota": 429,
    "invalid_request_error": 400,
    "not_found_error": 404,
    "overloaded_error": 503,
    "permission_error": 403,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "requests": 429,
    "server_error": 500,
    "service_unavailable_error": 503,
    "slow_down": 429,
    "tokens": 429,
}

# Reasons whose own code callers branch on, or whose upstream code speaks of a key that is not
# the caller's.
_OWN_CODE = {"context_length_exceeded", "model_not_found", "upstream_credentials"}


@dataclass(slots=True)
class _Said:
    """What the provider said, in one shape. `status` is 0 where the body names none."""

    message: str = ""
    type: str = ""
    param: str = ""
    code: str = ""
    status: int = 0

    def quote(self, other: _Said) -> None:
        """Takes the message of another, and of the rest what is not known here."""
        self.message = other.message
        self.code = self.code or other.code
        self.status = self.status or other.status


def error_of(status: int, headers: Mapping[str, str], body: bytes) -> InferenceError:
    """The failure that an answer with an error status stands for."""
    said = _read(body, status)
    return _failure(said, status, headers)


def error_in_answer(said: Any, headers: Mapping[str, str]) -> InferenceError:
    """The failure that an error object inside a 200 answer or a stream stands for."""
    read = _from_json(said)
    words = (read.code.lower(), read.type.lower())
    status = read.status or next((_STATUS_BY_WORD[w] for w in words if w in _STATUS_BY_WORD), 0)
    return _failure(read, status, headers, upstream_status=read.status)


def bare_error(value: Any, headers: Mapping[str, str]) -> InferenceError | None:
    """The failure in a 200 answer or a stream that has no `error` around it; None if it is none."""
    if not isinstance(value, dict):
        return None
    kind = f"{value.get('object')} {value.get('type')}".lower()
    if "error" not in kind and "detail" not in value and not _from_json(value).status:
        return None
    return error_in_answer(value, headers)


def _failure(
    said: _Said, status: int, headers: Mapping[str, str], upstream_status: int | None = None
) -> InferenceError:
    reason = _reason(said, status)
    return InferenceError(
        reason,
        said.message or f"the provider answered with status {status} and no message",
        param=said.param or None,
        code=None if reason in _OWN_CODE else said.code or None,
        upstream_status=status if upstream_status is None else upstream_status,
        upstream_request_id=request_id(headers),
        retry_after=retry_after(headers),
    )


def _reason(said: _Said, status: int) -> str:
    for word in (said.code.lower(), said.type.lower()):
        if word in _BY_WORD:
            return _BY_WORD[word]
    for statuses, pattern, reason in _BY_MESSAGE:
        if status in statuses and pattern.search(said.message):
            return reason
    return reason_for_status(status)


def _read(body: bytes, status: int) -> _Said:
    try:
        return _from_json(orjson.loads(body))
    except orjson.JSONDecodeError:
        pass
    text = body.decode("utf-8", "replace").strip()
    if text[:1] != "<":
        return _Said(text[:_TEXT_LIMIT])
    title = re.search(r"<title[^>]*>(.*?)</title>", text, re.IGNORECASE | re.DOTALL)
    shown = f": {html.unescape(title[1]).strip()[:_TEXT_LIMIT]}" if title else ""
    return _Said(f"the provider answered with status {status} and an HTML page{shown}")


def _from_json(value: Any, depth: int = _DEPTH) -> _Said:
    """Reads {"error": {...}}, {"error": "text"}, {"detail": ...}, flat objects, lists of them."""
    if isinstance(value, list) and value:
        value = value[0]
    if isinstance(value, str):
        return _from_text(value, depth)
    if not isinstance(value, dict):
        return _Said()
    said = _from_object(value, depth)
    inner = value.get("error") or value.get("errors")
    if isinstance(inner, dict | list) and depth:
        within = _from_json(inner, depth - 1)
        within.message = within.message or said.message
        return within
    if isinstance(inner, str) and not said.message:
        # Beside a message it is a name for the status.
        said.quote(_from_text(inner, depth))
    return said


def _from_text(text: str, depth: int) -> _Said:
    """A text, which may be the JSON of what another server said."""
    if depth and text.startswith(("{", "[")):
        try:
            within = _from_json(orjson.loads(text), depth - 1)
        except orjson.JSONDecodeError:
            within = _Said()
        if within.message:
            return within
    return _Said(text)


def _from_object(value: dict[str, Any], depth: int) -> _Said:
    said = _Said(type=_text(value.get("type")), param=_text(value.get("param")))
    message = next((value[name] for name in _MESSAGES if value.get(name)), None)
    code = value.get("code")
    said.status = next((n for n in map(_status, (value.get("status_code"), code)) if n), 0)
    # A status in the place of a code says nothing that the status does not.
    if not _status(code):
        said.code = _text(code) if not isinstance(code, int) else str(code)
    if isinstance(message, list) and message:
        message = message[0]
    if isinstance(message, str):
        said.quote(_from_text(message, depth))
    inner = value.get("innererror")
    if isinstance(inner, dict) and not said.code:
        said.code = _text(inner.get("code"))
    detail = message.get("detail") if isinstance(message, dict) else value.get("detail")
    if detail and (not said.message or "title" in value):
        _read_detail(said, detail)
    metadata = value.get("metadata")
    if isinstance(metadata, dict):
        _read_metadata(said, metadata)
    return said


def _read_metadata(said: _Said, metadata: dict[str, Any]) -> None:
    """A router's own message is generic; what its provider said, or found flagged, helps."""
    raw = metadata.get("raw")
    if isinstance(raw, str):
        said.message = f"{said.message}: {raw[:_TEXT_LIMIT]}"
    if metadata.get("flagged_input") and not said.code:
        said.code = "content_filter"


def _read_detail(said: _Said, detail: Any) -> None:
    """FastAPI's way: a text, or a list of {"loc": ["body", ...], "msg": ...}."""
    if isinstance(detail, list):
        rows = [row for row in detail if isinstance(row, dict)]
        said.message = "; ".join(_text(row.get("msg")) for row in rows)
        where = rows[0].get("loc") if rows else None
        if isinstance(where, list):
            said.param = ".".join(str(step) for step in where[1:])
    elif isinstance(detail, dict):
        said.message = _text(detail.get("message")) or orjson.dumps(detail).decode()
    else:
        said.message = str(detail)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _status(value: Any) -> int:
    """The HTTP error status that a number or a text of digits is; 0 if it is none."""
    text = str(value)
    return int(text) if text.isdigit() and 400 <= int(text) <= 599 else 0
