"""Streams a background response out of its log, from any event on: on any edge, at any time."""

from __future__ import annotations

import asyncio
import contextlib

from starlette.types import Send

from broker import durable
from broker.config import Limits
from broker.translate.responses_stream import ResponsesStream
from broker.v1 import stored_pb2
from edge.http.call import Call
from edge.http.inference import as_error
from edge.http.stream import EventStream
from edge.responses.service import ResponseService

_WHOLE = (stored_pb2.RESPONSE_STATUS_COMPLETED, stored_pb2.RESPONSE_STATUS_INCOMPLETE)


async def follow(
    call: Call,
    send: Send,
    limits: Limits,
    service: ResponseService,
    record: stored_pb2.StoredResponse,
    *,
    starting_after: int = -1,
    obfuscation: bool | None = None,
) -> None:
    """Write the response's events behind number `starting_after`, up to the terminal one."""
    events = ResponsesStream(
        record.id,
        record.created_at,
        record.request,
        starting_after=starting_after,
        include_obfuscation=obfuscation,
    )
    out = EventStream(call, send, limits, events)
    try:
        await out.start(call.answer_headers(None))
        if data := events.begin():
            await out.write(data)
        async with contextlib.aclosing(service.follow(record.owner, record.id)) as log:
            async for step in log:
                if isinstance(step, stored_pb2.StoredResponse):
                    data = b""
                    if step.status in _WHOLE:
                        data = events.feed([durable.terminal(step)])
                    await out.write(data + events.finish(step), last=True)
                elif data := events.feed(step):
                    await out.write(data)
    except (Exception, asyncio.CancelledError) as exc:
        if not out.open:
            raise
        error = as_error(exc, call)
        call.reason = error.reason
        await out.write(events.error(error), last=True)
    finally:
        out.close()
