"""Chooses how an answer is read by its first byte: content types are wrong too often; pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from broker.v1 import event_pb2
from workers.provider import Decoder

# May come before either: some servers keep a connection open with line ends.
_BLANK = b" \t\r\n\xef\xbb\xbf"
# How the lines of an event stream begin: data, event, id, retry and comments.
_EVENTS = (b"d", b"e", b"i", b"r", b":")


class SniffingDecoder:
    """Reads an event stream with `streamed` and anything else with `whole`, whatever was asked."""

    def __init__(self, whole: Callable[[], Decoder], streamed: Callable[[], Decoder]) -> None:
        self._whole = whole
        self._streamed = streamed
        self._chosen: Decoder | None = None

    def feed(self, data: bytes) -> Iterable[event_pb2.Event]:
        """Events that became whole with these bytes."""
        if self._chosen is None:
            data = data.lstrip(_BLANK)
            if not data:
                return ()
            self._chosen = self._streamed() if data.startswith(_EVENTS) else self._whole()
        return self._chosen.feed(data)

    def close(self) -> Iterable[event_pb2.Event]:
        """The last events; a body of nothing is a stream that was cut."""
        return (self._chosen or self._streamed()).close()
