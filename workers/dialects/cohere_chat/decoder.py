"""Reads the bytes of a Cohere answer, streamed or not, and feeds them to the answer's state."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from broker.v1 import generation_pb2
from workers.dialects.cohere_chat.answer import Answer, Event
from workers.framing import SseFramer
from workers.jsonanswer import NONSENSE, JsonBody, JsonReader

_DONE = b"[DONE]"


class UnaryDecoder(JsonBody):
    """For an answer in one JSON body."""

    def __init__(self, request: generation_pb2.Request, headers: Mapping[str, str]) -> None:
        super().__init__(headers)
        self._answer = Answer(request, headers)

    def close(self) -> Iterable[Event]:
        """All events of the answer."""
        reply = self._whole_object()
        message = reply.get("message")
        if not isinstance(message, dict):
            # An error with status 200 has its text there.
            raise self._error("upstream_error", f"The provider sent no answer: {message}")
        if not reply.get("finish_reason"):
            raise self._error("upstream_incomplete", "The provider's answer has no finish_reason.")
        try:
            return self._whole(reply, message)
        except NONSENSE as exc:
            raise self._nonsense(exc) from exc

    def _whole(self, reply: dict[str, Any], message: dict[str, Any]) -> list[Event]:
        answer = self._answer
        events = [answer.start(reply.get("id"))]
        logprobs = reply.get("logprobs")
        content = message.get("content") or ()
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        for index, block in enumerate(blocks):
            is_text = block.get("type") == "text"
            events += answer.content_start(index, {"type": block.get("type")})
            events += answer.content_delta(index, block, logprobs if is_text else None)
            logprobs = None if is_text else logprobs
        events += answer.plan(message.get("tool_plan"))
        for index, call in enumerate(message.get("tool_calls") or ()):
            events += answer.tool_start(index, call)
            events += answer.tool_end(index)
        for citation in message.get("citations") or ():
            events += answer.citation(citation)
        return events + answer.end(reply["finish_reason"], reply.get("usage"))


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
            yield from self._event(payload, "upstream_error")

    def close(self) -> Iterator[Event]:
        """The last events, if the stream ended within its last event's line ends."""
        for _, payload in self._framer.close():
            yield from self._event(payload, "upstream_incomplete")
        if not self._done:
            raise self._error(
                "upstream_incomplete", "The provider's stream ended before the answer did."
            )

    def _event(self, payload: bytes, when_broken: str) -> Iterable[Event]:
        if self._done or not payload.strip():
            return ()
        if payload.startswith(_DONE):
            raise self._error("upstream_incomplete", "The provider's stream has no message-end.")
        event = self._object(payload, when_broken)
        kind = event.get("type")
        if kind is None:
            raise self._error("upstream_error", f"The provider broke off: {event.get('message')}")
        read = _READERS.get(str(kind))
        if read is None:
            return ()
        try:
            events = read(self, event)
        except NONSENSE as exc:
            raise self._nonsense(exc) from exc
        if not self._started:
            self._started = True
            return [self._answer.start(event.get("id")), *events]
        return events

    def _message_start(self, event: dict[str, Any]) -> list[Event]:
        return self._answer.plan(_message(event).get("tool_plan"))

    def _content_start(self, event: dict[str, Any]) -> list[Event]:
        return self._answer.content_start(event["index"], _message(event)["content"])

    def _content_delta(self, event: dict[str, Any]) -> list[Event]:
        content = _message(event).get("content") or {}
        return self._answer.content_delta(event["index"], content, event.get("logprobs"))

    def _tool_plan_delta(self, event: dict[str, Any]) -> list[Event]:
        return self._answer.plan(_message(event).get("tool_plan"))

    def _tool_start(self, event: dict[str, Any]) -> list[Event]:
        return self._answer.tool_start(event["index"], _message(event)["tool_calls"])

    def _tool_delta(self, event: dict[str, Any]) -> list[Event]:
        return self._answer.tool_delta(event["index"], _message(event)["tool_calls"])

    def _tool_end(self, event: dict[str, Any]) -> list[Event]:
        return self._answer.tool_end(event["index"])

    def _citation(self, event: dict[str, Any]) -> list[Event]:
        return self._answer.citation(_message(event).get("citations"))

    def _message_end(self, event: dict[str, Any]) -> list[Event]:
        delta = event.get("delta") or {}
        reason = delta.get("finish_reason")
        if not reason:
            raise self._error("upstream_incomplete", "The provider's stream has no finish_reason.")
        events = self._answer.end(reason, delta.get("usage"), delta.get("error"))
        self._done = True
        return events


def _message(event: dict[str, Any]) -> dict[str, Any]:
    return (event.get("delta") or {}).get("message") or {}


# `content-end`, `citation-end`, `debug` and events of later versions are skipped.
_READERS: dict[str, Callable[[StreamDecoder, dict[str, Any]], list[Event]]] = {
    "message-start": StreamDecoder._message_start,
    "content-start": StreamDecoder._content_start,
    "content-delta": StreamDecoder._content_delta,
    "tool-plan-delta": StreamDecoder._tool_plan_delta,
    "tool-call-start": StreamDecoder._tool_start,
    "tool-call-delta": StreamDecoder._tool_delta,
    "tool-call-end": StreamDecoder._tool_end,
    "citation-start": StreamDecoder._citation,
    "message-end": StreamDecoder._message_end,
}
