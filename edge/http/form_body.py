"""Reading a multipart/form-data body, within limits."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from starlette.types import Receive

from broker.errors import InferenceError
from broker.translate.multipart import Fields, FormReader
from edge.http.body import ClientGoneError, Hold, refuse_encoded, too_large


async def read_form(
    headers: Mapping[bytes, bytes],
    receive: Receive,
    boundary: bytes,
    *,
    limit: int,
    timeout_s: float,
    hold: Hold,
) -> Fields:
    """The whole form, parsed as it comes; the same is raised as for a JSON body."""
    length = headers.get(b"content-length")
    if length is not None and int(length) > limit:
        raise too_large(limit)
    refuse_encoded(headers)
    if length is not None:
        hold(int(length))
    reader = FormReader(boundary, limit if length is None else int(length))
    try:
        async with asyncio.timeout(timeout_s):
            size, more = 0, True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGoneError
                part = message.get("body", b"")
                size += len(part)
                if size > limit:
                    raise too_large(limit)
                if length is None:
                    hold(len(part))
                reader.feed(part)
                more = message.get("more_body", False)
    except TimeoutError as exc:
        raise InferenceError(
            "deadline", f"the request body did not arrive within {timeout_s:g} seconds"
        ) from exc
    else:
        return reader.close()
    finally:
        reader.let_go()
