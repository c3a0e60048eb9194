"""Reads the bytes of a Converse answer, streamed or not, and feeds them to the answer's state."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import orjson

from broker.v1 import generation_pb2
from workers.dialects.bedrock_converse.answer import Answer, Event
from workers.dialects.bedrock_converse.errors import error_in_answer
from workers.eventstream import EventStreamFramer, Message
from workers.jsonanswer import NONSENSE, JsonBody, JsonReader


def is_streamed(request: generation_pb2.Request, headers: Mapping[str, str]) -> bool:
    """Whether the answer is an event stream: as it says, else as the request asked."""
    kind = headers.get("content-type", "").lower()
    if "eventstream" in kind:
        return True
    return request.generate.stream and not ("json" in kind or "html" in kind)


class UnaryDecoder(JsonBody):
    """For an answer in one JSON body."""

    def __init__(self, request: generation_pb2.Request, headers: Mapping[str, str]) -> None:
        super().__init__(headers)
        self._answer = Answer(request, headers)

    def close(self) -> Iterable[Event]:
        """All events of the answer."""
        reply = self._whole_object()
        if "output" not in reply:
            raise error_in_answer("", bytes(self._body), self._headers)
        if not reply.get("stopReason"):
            raise self._error("upstream_incomplete", "The provider's answer has no stopReason.")
        try:
            return self._whole(reply)
        except NONSENSE as exc:
            raise self._nonsense(exc) from exc

    def _whole(self, reply: dict[str, Any]) -> list[Event]:
        answer = self._answer
        events = [answer.message_start(reply.get("serviceTier"))]
        message = reply["output"].get("message") or {}
        for index, block in enumerate(message.get("content") or ()):
            events += answer.whole_block(index, block)
        answer.metadata(reply.get("usage"))
        return [*events, *answer.message_stop(reply["stopReason"]), answer.end()]


class StreamDecoder(JsonReader):
    """For an event stream."""

    def __init__(self, request: generation_pb2.Request, headers: Mapping[str, str]) -> None:
        super().__init__(headers)
        self._answer = Answer(request, headers)
        self._framer = EventStreamFramer()
        self._started = False
        self._done = False

    def feed(self, data: bytes) -> Iterator[Event]:
        """Events that became whole; those before a failure come before it is raised."""
        for message in self._framer.feed(data):
            yield from self._message(message)

    def close(self) -> Iterator[Event]:
        """The last event. The reason to stop makes an answer whole, even without its cost."""
        if self._done:
            return
        if not self._answer.has_reason:
            raise self._error(
                "upstream_incomplete", "The provider's stream ended before the answer did."
            )
        self._done = True
        yield self._answer.end()

    def _message(self, message: Message) -> Iterator[Event]:
        if message.kind != "event":
            if self._done:
                return
            body = message.payload
            if message.kind == "error":
                body = orjson.dumps({"message": message.headers.get(":error-message")})
            raise error_in_answer(message.name, body, self._headers)
        read = _READERS.get(message.name)
        if read is None or self._done:
            return
        event = self._object(message.payload, "upstream_error")
        if not self._started:
            self._started = True
            yield self._answer.message_start()
        try:
            events = read(self._answer, event)
        except NONSENSE as exc:
            raise self._nonsense(exc) from exc
        yield from events
        # AWS promises no order of the last two events.
        if self._answer.has_reason and self._answer.has_usage:
            self._done = True
            yield self._answer.end()


def _message_start(_answer: Answer, _event: dict[str, Any]) -> list[Event]:
    return []


def _block_start(answer: Answer, event: dict[str, Any]) -> list[Event]:
    return answer.block_start(event["contentBlockIndex"], event["start"])


def _block_delta(answer: Answer, event: dict[str, Any]) -> list[Event]:
    return answer.block_delta(event["contentBlockIndex"], event["delta"])


def _block_stop(answer: Answer, event: dict[str, Any]) -> list[Event]:
    return answer.block_stop(event["contentBlockIndex"])


def _message_stop(answer: Answer, event: dict[str, Any]) -> list[Event]:
    return answer.message_stop(event["stopReason"])


def _metadata(answer: Answer, event: dict[str, Any]) -> list[Event]:
    answer.metadata(event.get("usage"))
    return []


# Events of later versions are skipped.
_READERS: dict[str, Callable[[Answer, dict[str, Any]], list[Event]]] = {
    "messageStart": _message_start,
    "contentBlockStart": _block_start,
    "contentBlockDelta": _block_delta,
    "contentBlockStop": _block_stop,
    "messageStop": _message_stop,
    "metadata": _metadata,
}
