"""Renders an error as the Messages API does, which its SDKs turn into their exceptions."""

from __future__ import annotations

import msgspec

from broker.errors import InferenceError

_json = msgspec.json.Encoder().encode

# What a failed request's type is, by its status. Source: the error types of the official SDK.
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
# Where the status alone does not tell.
_BY_REASON = {
    "insufficient_quota": "billing_error",
    "upstream_quota": "billing_error",
    "queue_full": "overloaded_error",
}
# The format has a status of its own for this.
_STATUSES = {"upstream_overloaded": 529}


def messages_status(exc: InferenceError) -> int:
    """The HTTP status."""
    return _STATUSES.get(exc.reason, exc.row.http)


def messages_error(exc: InferenceError, request_id: str = "") -> bytes:
    """The JSON body, and the data of an error event.

    There is no place for the field at fault beside the message, so that the message begins with
    it.
    """
    status = messages_status(exc)
    kind = _BY_REASON.get(exc.reason) or _TYPES.get(status)
    if kind is None:
        kind = "invalid_request_error" if status < 500 else "api_error"
    message = exc.message
    if exc.param and exc.param not in message:
        message = f"{exc.param}: {message}"
    body: dict[str, object] = {"type": "error", "error": {"type": kind, "message": message}}
    if request_id:
        body["request_id"] = request_id
    return _json(body)
