"""Reads the bytes of an answer: server-sent events, one object, or an array of objects."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import orjson

from broker.v1 import generation_pb2
from workers.dialects.gemini.answer import Answer, Event
from workers.dialects.gemini.errors import error_of
from workers.framing import SseFramer
from workers.jsonanswer import NONSENSE, JsonBody


class GeminiDecoder(JsonBody):
    """One answer; how it is framed shows with its first byte.

    Events begin with a field name, JSON with a bracket. A stream without `alt=sse`, as some
    gateways make it, is a JSON array.
    """

    def __init__(
        self, request: generation_pb2.Request, headers: Mapping[str, str], issuer: str
    ) -> None:
        super().__init__(headers)
        self._answer = Answer(request, headers, issuer)
        kind = headers.get("content-type", "").lower()
        plain = "json" in kind or "html" in kind
        self._framer: SseFramer | None = None
        if "event-stream" in kind or (request.generate.stream and not plain):
            self._framer = SseFramer()
        self._begun = False
        self._done = False

    def feed(self, data: bytes) -> Iterator[Event]:
        """Events that became whole; those before a failure come before it is raised."""
        if not self._begun and (first := data.lstrip()[:1]):
            self._begun = True
            if first in (b"{", b"["):
                self._framer = None
        if self._framer is not None:
            for _, payload in self._framer.feed(data):
                yield from self._event(payload, "upstream_error")
            return
        yield from super().feed(data)

    def close(self) -> Iterator[Event]:
        """The last events. There is no terminator: the reason to stop makes an answer whole."""
        if self._done:
            return
        if self._framer is None:
            yield from self._whole()
        elif not self._answer.is_whole:
            for _, payload in self._framer.close():
                yield from self._event(payload, "upstream_incomplete")
        if not self._answer.is_whole:
            raise self._error(
                "upstream_incomplete", "The provider's stream ended before the answer did."
            )
        self._done = True
        yield from self._read(self._answer.end)

    def _whole(self) -> Iterator[Event]:
        value = self._whole_value((b"{", b"["))
        for data in value if isinstance(value, list) else [value]:
            yield from self._chunk(data)

    def _event(self, payload: bytes, when_broken: str) -> Iterable[Event]:
        # What a gateway appends, such as [DONE], is none of Gemini's objects.
        if payload[:1] == b"[" and payload.strip() == b"[DONE]":
            return ()
        value = self._loads(payload, when_broken)
        chunks = value if isinstance(value, list) else [value]
        return [event for data in chunks for event in self._chunk(data)]

    def _chunk(self, value: Any) -> Iterable[Event]:
        data = self._checked(value)
        if data.get("error"):
            raise error_of(0, self._headers, orjson.dumps(data))
        return self._read(lambda: self._answer.chunk(data))

    def _read(self, read: Any) -> list[Event]:
        try:
            events: list[Event] = read()
        except NONSENSE as exc:
            raise self._nonsense(exc) from exc
        return events
