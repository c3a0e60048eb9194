"""Reads the bytes of an answer: server-sent events, one object, or an array of objects."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import orjson

from broker.errors import InferenceError
from broker.v1 import generation_pb2
from workers.dialects.gemini.answer import Answer, Event
from workers.dialects.gemini.errors import error_of
from workers.framing import SseFramer
from workers.headers import request_id

# A few generated images in base64 come near half of it.
_BODY_LIMIT = 64 * 1024 * 1024
_SHOWN = 200
# What reading JSON of another shape than the documented one raises.
_NONSENSE = (AttributeError, IndexError, KeyError, TypeError, ValueError)


class GeminiDecoder:
    """One answer; how it is framed shows with its first byte.

    Events begin with a field name, JSON with a bracket. A stream without `alt=sse`, as some
    gateways make it, is a JSON array.
    """

    def __init__(
        self, request: generation_pb2.Request, headers: Mapping[str, str], issuer: str
    ) -> None:
        self._answer = Answer(request, headers, issuer)
        self._headers = headers
        kind = headers.get("content-type", "").lower()
        plain = "json" in kind or "html" in kind
        self._framer: SseFramer | None = None
        if "event-stream" in kind or (request.generate.stream and not plain):
            self._framer = SseFramer()
        self._body = bytearray()
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
        self._body += data
        if len(self._body) > _BODY_LIMIT:
            raise self._error("upstream_error", "The provider's answer is too large to be one.")

    def close(self) -> Iterator[Event]:
        """The last events. There is no terminator: the reason to stop makes an answer whole."""
        if self._done:
            return
        if self._framer is None:
            yield from self._whole(bytes(self._body))
        elif not self._answer.is_whole:
            for _, payload in self._framer.close():
                yield from self._event(payload, "upstream_incomplete")
        if not self._answer.is_whole:
            raise self._error(
                "upstream_incomplete", "The provider's stream ended before the answer did."
            )
        self._done = True
        yield from self._read(self._answer.end)

    def _whole(self, body: bytes) -> Iterator[Event]:
        # Half of a JSON value is a broken connection, anything else is somebody else's page.
        half = body.strip()[:1] in (b"", b"{", b"[")
        value = self._loads(body, "upstream_incomplete" if half else "upstream_error")
        for data in value if isinstance(value, list) else [value]:
            yield from self._chunk(data)

    def _event(self, payload: bytes, when_broken: str) -> Iterable[Event]:
        # What a gateway appends, such as [DONE], is none of Gemini's objects.
        if payload[:1] == b"[" and payload.strip() == b"[DONE]":
            return ()
        value = self._loads(payload, when_broken)
        chunks = value if isinstance(value, list) else [value]
        return [event for data in chunks for event in self._chunk(data)]

    def _chunk(self, data: Any) -> Iterable[Event]:
        if not isinstance(data, dict):
            raise self._error("upstream_error", "The provider's answer is not a JSON object.")
        if data.get("error"):
            raise error_of(0, self._headers, orjson.dumps(data))
        return self._read(lambda: self._answer.chunk(data))

    def _read(self, read: Any) -> list[Event]:
        try:
            events: list[Event] = read()
        except _NONSENSE as exc:
            message = f"The provider's answer makes no sense: {exc!r}"
            raise self._error("upstream_error", message) from exc
        return events

    def _loads(self, data: bytes, when_broken: str) -> Any:
        try:
            return orjson.loads(data)
        except orjson.JSONDecodeError as exc:
            shown = data[:_SHOWN].decode(errors="replace")
            message = f"The provider's answer is not valid JSON ({exc}): {shown}"
            raise self._error(when_broken, message) from exc

    def _error(self, reason: str, message: str) -> InferenceError:
        return InferenceError(reason, message, upstream_request_id=request_id(self._headers))
