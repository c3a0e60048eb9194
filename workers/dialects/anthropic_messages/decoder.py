"""Reads the bytes of a Messages answer, streamed or not, and feeds them to the answer's state."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import orjson

from broker.v1 import generation_pb2
from workers.dialects.anthropic_messages.answer import Answer, Event
from workers.dialects.anthropic_messages.errors import error_of
from workers.framing import SseFramer
from workers.jsonanswer import NONSENSE, JsonBody, JsonReader


class UnaryDecoder(JsonBody):
    """For an answer in one JSON body."""

    def __init__(self, request: generation_pb2.Request, headers: Mapping[str, str]) -> None:
        super().__init__(headers)
        self._answer = Answer(request, headers)

    def close(self) -> Iterable[Event]:
        """All events of the answer."""
        message = self._whole_object()
        if message.get("type") == "error":
            raise error_of(0, self._headers, bytes(self._body))
        content = message.get("content")
        if not isinstance(content, list):
            raise self._error("upstream_error", "The provider's answer has no content.")
        try:
            return self._whole(message, content)
        except NONSENSE as exc:
            raise self._nonsense(exc) from exc

    def _whole(self, message: dict[str, Any], content: list[Any]) -> list[Event]:
        answer = self._answer
        answer.message_delta(message)
        if not answer.has_reason:
            raise self._error("upstream_incomplete", "The provider's answer has no stop_reason.")
        events = [*answer.message_start(message)]
        for index, block in enumerate(content):
            events += answer.block_start(index, block)
            events += answer.block_stop(index)
        return [*events, *answer.message_stop()]


class StreamDecoder(JsonReader):
    """For an event stream."""

    def __init__(self, request: generation_pb2.Request, headers: Mapping[str, str]) -> None:
        super().__init__(headers)
        self._answer = Answer(request, headers)
        self._framer = SseFramer()
        self._started = False
        self._done = False

    def feed(self, data: bytes) -> Iterator[Event]:
        """Events that became whole; those before a failure come before it is raised."""
        for _, payload in self._framer.feed(data):
            yield from self.event(payload, "upstream_error")

    @property
    def is_done(self) -> bool:
        """Whether the answer is over."""
        return self._done

    def close(self) -> Iterator[Event]:
        """The last events. The reason to stop makes an answer whole, even without message_stop."""
        if not self._answer.has_reason:
            for _, payload in self._framer.close():
                yield from self.event(payload, "upstream_incomplete")
        if self._done:
            return
        if not (self._started and self._answer.has_reason):
            raise self._error(
                "upstream_incomplete", "The provider's stream ended before the answer did."
            )
        self._done = True
        yield from self._answer.message_stop()

    def event(self, payload: bytes, when_broken: str = "upstream_error") -> Iterable[Event]:
        """Events of one event of the stream, its JSON."""
        event = self._object(payload, when_broken)
        read = _READERS.get(str(event.get("type")))
        if read is None or self._done:
            return ()
        try:
            return read(self, event)
        except NONSENSE as exc:
            raise self._nonsense(exc) from exc

    def _message_start(self, event: dict[str, Any]) -> Iterable[Event]:
        if self._started:
            return ()
        self._started = True
        return self._answer.message_start(event["message"])

    def _block_start(self, event: dict[str, Any]) -> Iterable[Event]:
        self._check_started()
        return self._answer.block_start(event["index"], event["content_block"])

    def _block_delta(self, event: dict[str, Any]) -> Iterable[Event]:
        return self._answer.block_delta(event["index"], event["delta"])

    def _block_stop(self, event: dict[str, Any]) -> Iterable[Event]:
        return self._answer.block_stop(event["index"])

    def _message_delta(self, event: dict[str, Any]) -> Iterable[Event]:
        self._answer.message_usage(event.get("usage"))
        self._answer.message_delta(event["delta"])
        if (managed := event.get("context_management")) is not None:
            self._answer.message_delta({"context_management": managed})
        if not (self._answer.has_reason and event.get("usage")):
            return ()
        # All is said: not every server sends message_stop, or closes the connection.
        return self._message_stop(event)

    def _message_stop(self, event: dict[str, Any]) -> Iterable[Event]:
        self._check_started()
        if not self._answer.has_reason:
            raise self._error("upstream_incomplete", "The provider's stream has no stop_reason.")
        self._done = True
        return self._answer.message_stop()

    def _error_event(self, event: dict[str, Any]) -> Iterable[Event]:
        raise error_of(0, self._headers, orjson.dumps(event))

    def _check_started(self) -> None:
        if not self._started:
            raise self._error("upstream_error", "The provider's stream has no beginning.")


# `ping` and events of later versions are skipped.
_READERS: dict[str, Callable[[StreamDecoder, dict[str, Any]], Iterable[Event]]] = {
    "message_start": StreamDecoder._message_start,
    "content_block_start": StreamDecoder._block_start,
    "content_block_delta": StreamDecoder._block_delta,
    "content_block_stop": StreamDecoder._block_stop,
    "message_delta": StreamDecoder._message_delta,
    "message_stop": StreamDecoder._message_stop,
    "error": StreamDecoder._error_event,
}
