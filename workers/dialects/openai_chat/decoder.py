"""Decodes the bytes of a chat answer, streamed or whole, into hub events."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import msgspec

from broker.errors import InferenceError
from broker.v1 import event_pb2, generation_pb2
from workers.dialects.openai_chat.errors import bare_error, error_in_answer
from workers.dialects.openai_chat.events import AnswerEvents
from workers.dialects.openai_chat.wire import Chunk, decode_chunk, decode_plain
from workers.framing import SseFramer
from workers.headers import request_id

# A whole answer with generated images and audio is some tens of megabytes.
BODY_LIMIT = 64 * 1024 * 1024

_SHOWN = 200
_BLANK = b" \t\r\n\xef\xbb\xbf"
# What an event stream begins with.
_FIELDS = (b"data:", b"event:", b"id:", b"retry:", b":")
_Events = list[event_pb2.Event]


class UnaryDecoder:
    """A whole answer: collects the body, and reads it when it has ended."""

    def __init__(self, request: generation_pb2.Request, headers: Mapping[str, str]) -> None:
        self._answer = AnswerEvents(request, headers, streamed=False)
        self._request = request
        self._headers = headers
        self._body = bytearray()

    def feed(self, data: bytes) -> Iterable[event_pb2.Event]:
        """Keeps the bytes; there is no event before the end."""
        self._body += data
        if len(self._body) > BODY_LIMIT:
            raise _error(
                "upstream_error",
                f"the provider sent an answer of more than {BODY_LIMIT} bytes",
                self._headers,
            )
        return ()

    def close(self) -> Iterable[event_pb2.Event]:
        """All events of the answer."""
        body = bytes(self._body).strip(_BLANK)
        if not body:
            raise _error("upstream_incomplete", "the provider sent an empty answer", self._headers)
        _refuse_html(body[:1], self._headers)
        if body.startswith(_FIELDS):
            # Some servers stream whatever they are asked.
            stream = StreamDecoder(self._request, self._headers)
            return [*stream.feed(body), *stream.close()]
        events: _Events = []
        self._answer.add(_decode(body, self._headers), events)
        if not self._answer.choices:
            _refuse_bare_error(body, self._headers)
            raise _error("upstream_error", "the provider's answer has no choices", self._headers)
        self._answer.finish(events)
        return events


class StreamDecoder:
    """A stream of events.

    It is over with [DONE], with the usage behind the last finish reason, or with its end if all
    finish reasons have come; what follows is skipped.

    A body that turns out to be a JSON object is decoded as a whole answer: some servers do not
    stream whatever they are asked.
    """

    def __init__(self, request: generation_pb2.Request, headers: Mapping[str, str]) -> None:
        self._request = request
        self._headers = headers
        self._answer = AnswerEvents(request, headers, streamed=True)
        self._framer = SseFramer()
        self._unary: UnaryDecoder | None = None
        self._sniffed = False
        self._ended = False

    def feed(self, data: bytes) -> Iterable[event_pb2.Event]:
        """The events that became whole with these bytes; what precedes an error comes before it."""
        if not self._sniffed:
            self._sniff(data)
        if self._unary is not None:
            return self._unary.feed(data)
        events: _Events = []
        try:
            for name, payload in self._framer.feed(data):
                if name or not self._add_plain(payload, events):
                    self._add(name, payload, events)
        except InferenceError as error:
            return _then_raise(events, error)
        return events

    def close(self) -> Iterable[event_pb2.Event]:
        """The last events, if the stream did not end with [DONE]."""
        if self._unary is not None:
            return self._unary.close()
        events: _Events = []
        try:
            for name, payload in self._framer.close():
                self._add_last(name, payload, events)
            if not self._ended:
                # Without [DONE], a choice that has not begun may be missing.
                self._end(events, self._answer.all_begun)
        except InferenceError as error:
            return _then_raise(events, error)
        return events

    def _sniff(self, data: bytes) -> None:
        """Tells by the first character what came: content types are wrong too often."""
        first = data.lstrip(_BLANK)[:1]
        self._sniffed = bool(first)
        _refuse_html(first, self._headers)
        if first == b"{":
            self._unary = UnaryDecoder(self._request, self._headers)

    def _add_plain(self, payload: bytes, events: _Events) -> bool:
        """Takes the short way for a piece of text, if it is one; what it skips would do nothing."""
        if self._ended:
            return False
        try:
            chunk = decode_plain(payload)
        except msgspec.DecodeError:
            return False
        choice = chunk.choices[0]
        return self._answer.add_text(choice.index, choice.delta.content, events)

    def _add(self, name: bytes, payload: bytes, events: _Events) -> None:
        if self._ended or not payload or payload.isspace():
            return
        if payload.startswith(b"[DONE]"):
            self._end(events, done=True)
            return
        chunk = _decode(payload, self._headers)
        if name == b"error" and not chunk.error:
            raise error_in_answer(msgspec.json.decode(payload), self._headers)
        if not (chunk.choices or chunk.usage or chunk.id):
            _refuse_bare_error(payload, self._headers)
        self._answer.add(chunk, events)
        if self._answer.complete:
            # Some servers keep the connection and send no [DONE].
            self._end(events)

    def _add_last(self, name: bytes, payload: bytes, events: _Events) -> None:
        """An event that lacks its blank line was cut if it cannot be read."""
        try:
            self._add(name, payload, events)
        except InferenceError as error:
            if isinstance(error.__cause__, msgspec.DecodeError):
                return
            raise

    def _end(self, events: _Events, all_begun: bool = True, *, done: bool = False) -> None:
        if not (all_begun and (self._answer.finished or (done and self._answer.counted))):
            raise _error(
                "upstream_incomplete",
                "the provider's stream ended before the answer was finished",
                self._headers,
            )
        self._ended = True
        self._answer.finish(events)


def _refuse_html(first: bytes, headers: Mapping[str, str]) -> None:
    if first == b"<":
        raise _error("upstream_error", "the provider sent an HTML page, not an answer", headers)


def _refuse_bare_error(payload: bytes, headers: Mapping[str, str]) -> None:
    error = bare_error(msgspec.json.decode(payload), headers)
    if error is not None:
        raise error


def _decode(payload: bytes, headers: Mapping[str, str]) -> Chunk:
    try:
        return decode_chunk(payload)
    except msgspec.ValidationError as exc:
        raise _error(
            "upstream_error", f"the provider's answer has an unknown form: {exc}", headers
        ) from exc
    except msgspec.DecodeError as exc:
        shown = payload[:_SHOWN].decode("utf-8", "replace")
        raise _error("upstream_error", f"the provider sent no JSON: {shown}", headers) from exc


def _error(reason: str, message: str, headers: Mapping[str, str]) -> InferenceError:
    return InferenceError(
        reason, message, upstream_status=200, upstream_request_id=request_id(headers)
    )


def _then_raise(events: _Events, error: InferenceError) -> Iterator[event_pb2.Event]:
    yield from events
    raise error
