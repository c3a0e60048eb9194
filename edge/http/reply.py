"""The parts every reply is made of: status, headers with the request's id, and a body."""

from __future__ import annotations

import functools
import re

from broker.errors import InferenceError
from broker.translate.errors import error_body, error_headers
from edge import ids

Header = tuple[bytes, bytes]

REQUEST_ID = b"x-request-id"
# Who answered, or failed to.
PROVIDER = b"x-millrace-provider"
MODEL = b"x-millrace-model"
UPSTREAM_ID = b"x-millrace-upstream-request-id"
ROUTE = b"x-millrace-route"
JSON_TYPE: Header = (b"content-type", b"application/json")

# Anything else in a value could end the header or is refused by HTTP implementations.
_UNSAFE = re.compile(r"[^\x20-\x7e]")


def new_request_id() -> str:
    """A fresh id: `req_` and 32 hex digits. A client's own id is logged, never used."""
    return "req_" + ids.random_bytes().hex()


@functools.lru_cache(maxsize=1024)
def header_value(text: str) -> bytes:
    """Text from elsewhere (a model's name, an upstream's header) as a safe header value."""
    return _UNSAFE.sub("?", text).encode()


def who_failed(error: InferenceError) -> list[Header]:
    """Headers that say who failed, and by what id the provider knows it, where that is known."""
    known = (
        (PROVIDER, error.provider),
        (MODEL, error.model),
        (UPSTREAM_ID, error.upstream_request_id),
    )
    return [(name, header_value(value)) for name, value in known if value]


def error_reply(
    error: InferenceError, request_id: str | None = None, body: bytes | None = None
) -> tuple[int, list[Header], bytes]:
    """Status, headers and body for an error; without a request id the reply gets a new one.

    `body` is in OpenAI's form unless it is given.
    """
    if body is None:
        body = error_body(error)
    headers = [
        JSON_TYPE,
        (b"content-length", b"%d" % len(body)),
        (REQUEST_ID, (request_id or new_request_id()).encode()),
        *error_headers(error),
        *who_failed(error),
    ]
    return error.row.http, headers, body
