"""Passes a provider's answer on as it comes: bytes in, events out, no faster than they are wanted.

A slow reader stops its own upstream alone (R9).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable
from typing import Protocol

from broker.errors import InferenceError
from broker.v1 import event_pb2
from workers.caller import Said
from workers.calls import Send
from workers.idle import Idle
from workers.provider import Decoder

# After the terminal event the rest of the body is read this long, to keep the connection.
_TAIL_S = 0.2


class Session(Protocol):
    """Where an attempt's events go; `credit` is how many bytes of them are wanted."""

    @property
    def credit(self) -> int: ...

    def send(self, events: list[event_pb2.Event], *, last: bool = False) -> None:
        """Pass events on; the last one is terminal."""

    async def wait_credit(self) -> None:
        """Wait until more is wanted; raises what ended the session."""


async def flow(
    reply: Said,
    decoder: Decoder,
    send: Send,
    session: Session,
    idle: Idle,
    *,
    has_content: Callable[[], bool],
    named_end: bool,
) -> None:
    """Give events to `send` as they come; the terminal one ends it.

    `has_content` tells whether some have come that a caller sees, `named_end` whether an answer has
    a last word, without which it is not whole.
    """
    done = False

    def take(chunk: bytes) -> bool:
        nonlocal done
        passed = _pass_on(decoder.feed(chunk), send)
        content = has_content()
        if content:
            reply.settle()
        if passed is None:
            idle.heard(len(chunk), time.monotonic(), content=content)
            return session.credit > 0
        idle.since = None
        done = passed
        return not done and session.credit > 0

    try:
        while not await reply.push(take):
            if done:
                return
            await session.wait_credit()
    except InferenceError as exc:
        # A provider that said why it finished, and then fell silent or broke off, has finished.
        ended = exc.reason in {"stalled", "upstream_incomplete"} and named_end
        if not (ended and _close(decoder, send)):
            raise
        return
    if not _pass_on(decoder.close(), send):
        raise InferenceError("upstream_incomplete", "the provider's answer ended early")


async def read_tail(reply: Said) -> None:
    """Read what follows the terminal event, so that the connection can be kept."""
    if reply.ended:
        return
    with contextlib.suppress(InferenceError, TimeoutError):
        async with asyncio.timeout(_TAIL_S):
            async for _ in reply:
                pass


def _close(decoder: Decoder, send: Send) -> bool:
    try:
        return bool(_pass_on(decoder.close(), send))
    except InferenceError:
        return False


def _pass_on(decoded: Iterable[event_pb2.Event], send: Send) -> bool | None:
    """Send events; True when the last of them completes the answer, None when there are none.

    What was decoded before an error is sent before it is raised.
    """
    if type(decoded) is list:
        return send(decoded) if decoded else None
    events: list[event_pb2.Event] = []
    try:
        events.extend(decoded)
    except InferenceError:
        if events:
            send(events)
        raise
    return send(events) if events else None
