"""Reading a JSON request body, within limits."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Mapping

from starlette.types import Receive

from broker.errors import InferenceError

# Told of bytes that are to be held; raises `InferenceError` when those are too many.
Hold = Callable[[int], None]


def _held(_size: int) -> None:
    """It was told of all of them."""


class ClientGoneError(Exception):
    """The client left while it was sending the request."""


async def read_json_body(
    headers: Mapping[bytes, bytes],
    receive: Receive,
    *,
    limit: int,
    timeout_s: float,
    hold: Hold = _held,
    arrived: bool = False,
) -> bytes:
    """The whole body; what can be refused by its headers is refused before a byte is read.

    Raises `InferenceError` (request_too_large, unsupported_media_type, deadline) and
    `ClientGoneError`. `limit` is in bytes; `hold` is told of the length, or of each part of a
    chunked body as it comes, and may refuse it. `arrived`: its first part is there.
    """
    length = headers.get(b"content-length")
    if length is not None and int(length) > limit:
        raise too_large(limit)
    content_type = headers.get(b"content-type", b"")
    if content_type != b"application/json" and not _is_json(content_type):
        raise InferenceError(
            "unsupported_media_type",
            "the body has to be JSON, sent with 'Content-Type: application/json'",
        )
    refuse_encoded(headers)
    if length is not None:
        hold(int(length))
        hold = _held
    body, more = b"", True
    if arrived:  # as nearly always: no timer, which would cost 8 us, for what is there
        body, more = await _part(receive)
    if more:
        try:
            async with asyncio.timeout(timeout_s):
                return await _read_rest(body, receive, limit, hold)
        except TimeoutError as exc:
            raise InferenceError(
                "deadline", f"the request body did not arrive within {timeout_s:g} seconds"
            ) from exc
    if len(body) > limit:
        raise too_large(limit)
    hold(len(body))
    return body


async def _part(receive: Receive) -> tuple[bytes, bool]:
    """The next part of a body, and whether more of it follows."""
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientGoneError
    return message.get("body", b""), message.get("more_body", False)


async def _read_rest(first: bytes, receive: Receive, limit: int, hold: Hold) -> bytes:
    parts = [first]
    hold(len(first))
    size = len(first)
    more = True
    while more:
        if size > limit:
            raise too_large(limit)
        part, more = await _part(receive)
        hold(len(part))
        parts.append(part)
        size += len(part)
    if size > limit:
        raise too_large(limit)
    return b"".join(parts)


@functools.lru_cache(maxsize=64)
def _is_json(content_type: bytes) -> bool:
    """Whether the type is JSON; none at all is taken for JSON, as the parser will tell."""
    kind = content_type.partition(b";")[0].strip().lower()
    return kind in (b"", b"application/json") or (
        kind.startswith(b"application/") and kind.endswith(b"+json")
    )


def refuse_encoded(headers: Mapping[bytes, bytes]) -> None:
    """Raises `InferenceError` for a compressed body."""
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise InferenceError(
            "unsupported_media_type", "send the body as it is, without Content-Encoding"
        )


def too_large(limit: int) -> InferenceError:
    """The 413 for a body above `limit` bytes."""
    return InferenceError("request_too_large", f"the request body is larger than {limit} bytes")
