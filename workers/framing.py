"""Cuts the bytes of a server-sent event stream into events; pure and incremental.

Follows the WHATWG event stream format (CR, LF or CRLF, comments, several data lines, a leading
BOM), with two differences: `id` and `retry` are skipped, since no provider's answer can be
resumed by them, and an event at the end of the stream counts even when its blank line is missing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

from broker.errors import InferenceError

# Name of the event (empty when it has none) and its data. A tuple, because one is made per token.
SseEvent: TypeAlias = tuple[bytes, bytes]

# A partial image of a provider is one event of a few megabytes.
EVENT_LIMIT = 16 * 1024 * 1024

_BOM = b"\xef\xbb\xbf"


class SseFramer:
    """Turns pieces of any size into whole events.

    `limit` is the largest event in bytes; a larger one raises `InferenceError` upstream_error
    instead of growing the buffer without end.
    """

    __slots__ = ("_after_cr", "_limit", "_pending")

    def __init__(self, limit: int = EVENT_LIMIT) -> None:
        self._limit = limit
        self._pending = bytearray()
        self._after_cr = False

    def feed(self, data: bytes) -> Iterable[SseEvent]:
        """The events that became whole with these bytes."""
        if self._after_cr or b"\r" in data:
            data = self._with_lf(data)
        pending = self._pending
        if pending:
            # Only the new bytes and the seam are searched, so that a large event that comes in
            # small pieces costs no more than its length.
            ends = b"\n\n" in data or (data.startswith(b"\n") and pending.endswith(b"\n"))
            pending += data
            if not ends:
                self._check(len(pending))
                return ()
            data = bytes(pending)
            pending.clear()
        if data.startswith(b"data: ") and data.endswith(b"\n\n") and len(data) <= self._limit:
            # Nearly always: whole events of one line each, told by the number of line ends.
            payloads = data[6:-2].split(b"\n\ndata: ")
            if data.count(b"\n") == 2 * len(payloads) and b"" not in payloads:
                return [(b"", payload) for payload in payloads]
        blocks = data.split(b"\n\n")
        rest = blocks.pop()
        if rest:
            pending += rest
            self._check(len(rest))
        return self._events(blocks)

    def close(self) -> Iterable[SseEvent]:
        """The last event of a stream that ended without a blank line, if there is one."""
        rest = bytes(self._pending)
        self._pending.clear()
        return self._events([rest]) if rest else ()

    def _with_lf(self, data: bytes) -> bytes:
        """The bytes with every line end as LF, also when CR and LF came in different pieces."""
        if self._after_cr and data:
            self._after_cr = False
            data = data.removeprefix(b"\n")
        if b"\r" in data:
            self._after_cr = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        return data

    def _events(self, blocks: list[bytes]) -> list[SseEvent]:
        events: list[SseEvent] = []
        for block in blocks:
            if len(block) > self._limit:
                self._check(len(block))
            if block.startswith(b"data: ") and b"\n" not in block and len(block) > 6:
                events.append((b"", block[6:]))
            elif block:
                event = _parse(block)
                if event is not None:
                    events.append(event)
        return events

    def _check(self, size: int) -> None:
        if size > self._limit:
            raise InferenceError(
                "upstream_error",
                f"the provider sent an event of more than {self._limit} bytes",
            )


def _parse(block: bytes) -> SseEvent | None:
    """One event from its lines; None when it has no data (a comment, an empty `data:`)."""
    name = b""
    data: list[bytes] = []
    for line in block.removeprefix(_BOM).split(b"\n"):
        field, _, value = line.partition(b":")
        if field == b"data":
            data.append(value.removeprefix(b" "))
        elif field == b"event":
            name = value.removeprefix(b" ")
    joined = b"\n".join(data)
    return (name, joined) if joined else None
