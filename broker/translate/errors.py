"""Renders an error as OpenAI's body and headers, which its SDKs turn into their exceptions."""

from __future__ import annotations

from math import ceil

import msgspec

from broker.errors import InferenceError
from broker.translate.wire_answer import Error, ErrorBody

_json = msgspec.json.Encoder().encode

# Waiting helps with these, so they say for how long. SDKs retry them on their own.
_WAIT = frozenset({429, 503})
# 429 by status, yet nothing changes by waiting.
_FINAL = frozenset({"insufficient_quota"})
_DEFAULT_WAIT_S = 1.0


def error_body(exc: InferenceError, _request_id: str = "") -> bytes:
    """The JSON body, always with all four keys; the request's id is in a header."""
    error = Error(exc.message, exc.row.type, exc.param, exc.code)
    return _json(ErrorBody(error))


def error_status(exc: InferenceError) -> int:
    """The HTTP status."""
    return exc.row.http


def retry_wait(exc: InferenceError) -> float | None:
    """Seconds after which the caller may try again; None when a retry cannot help."""
    if exc.row.http not in _WAIT or exc.reason in _FINAL:
        return None
    return _DEFAULT_WAIT_S if exc.retry_after is None else exc.retry_after


def error_headers(exc: InferenceError) -> list[tuple[bytes, bytes]]:
    """Headers beside the body: when to retry, or that it is no use.

    What could be retried inside has been, so that an SDK's own retries would only multiply the
    work: they are asked for where waiting helps and called off everywhere else.
    """
    wait = retry_wait(exc)
    if wait is None:
        return [(b"x-should-retry", b"false")]
    return [
        (b"retry-after", b"%d" % max(1, ceil(wait))),
        # SDKs read this one first, and take only what is above 0.
        (b"retry-after-ms", b"%d" % max(1, ceil(wait * 1000))),
    ]
