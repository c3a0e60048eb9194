"""Cuts the bytes of an AWS event stream (application/vnd.amazon.eventstream) into messages; pure.

The framing and its checksums are botocore's, which is why only what speaks this format imports it.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import error as struct_error
from typing import Any, NamedTuple

from botocore.eventstream import EventStreamBuffer, ParserError

from broker.errors import InferenceError

# What reading bytes that are no such stream raises.
_NONSENSE = (ParserError, struct_error, KeyError, IndexError, UnicodeDecodeError)
# The length of a message stands in its first bytes, which have a checksum of their own.
_PRELUDE = 12
_SMALLEST = 16
_TYPES = (":event-type", ":exception-type", ":error-code")


class Message(NamedTuple):
    """One message: `kind` is event, exception or error, and `name` says which."""

    kind: str
    name: str
    payload: bytes
    headers: dict[str, Any]


class EventStreamFramer:
    """Turns pieces of any size into whole messages.

    Raises `InferenceError` upstream_error for a checksum that does not match, a message of more
    than 24 MB, and bytes of another format.
    """

    __slots__ = ("_buffer", "_held", "_size")

    def __init__(self) -> None:
        self._buffer = EventStreamBuffer()
        # The buffer copies all that it holds with every piece: it gets a message in two of them.
        self._held = bytearray()
        self._size = 0

    def feed(self, data: bytes) -> Iterator[Message]:
        """The messages that became whole with these bytes."""
        held = self._held
        held += data
        while len(held) >= _PRELUDE:
            if not self._size:
                # Checked before anything is waited for: other formats give absurd lengths.
                self._take(bytes(held[:_PRELUDE]))
                self._size = max(int.from_bytes(held[:4], "big"), _SMALLEST)
            if len(held) < self._size:
                return
            message = self._take(bytes(held[_PRELUDE : self._size]))
            del held[: self._size]
            self._size = 0
            if message is None:
                raise InferenceError("upstream_error", "the provider sent a broken event stream")
            yield _named(message.headers, message.payload)

    def _take(self, data: bytes) -> Any:
        try:
            self._buffer.add_data(data)
            return next(self._buffer, None)
        except _NONSENSE as exc:
            raise InferenceError(
                "upstream_error", f"the provider sent no valid event stream: {exc}"
            ) from exc


def _named(headers: dict[str, Any], payload: bytes) -> Message:
    kind = str(headers.get(":message-type", "event"))
    name = next((str(headers[header]) for header in _TYPES if header in headers), "")
    return Message(kind, name, payload, headers)
