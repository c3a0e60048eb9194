"""Decodes the bytes of a response, streamed or whole, into hub events."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import orjson

from broker.errors import InferenceError
from broker.v1 import event_pb2, generation_pb2
from workers.dialects.openai_responses.events import AnswerEvents
from workers.dialects.openai_responses.fields import text_at
from workers.framing import SseFramer
from workers.headers import request_id

# A whole answer with generated images is some tens of megabytes.
BODY_LIMIT = 64 * 1024 * 1024
_SHOWN = 200
_RATE_LIMITS = ("rate_limit", "too_many", "insufficient_quota")
_CALLERS = ("invalid", "image", "policy", "context_length", "unsupported", "_not_found", "empty_")

Errors = Callable[[int, Mapping[str, str], bytes], InferenceError]


class UnaryDecoder:
    """A whole answer: collects the body, and reads it when it has ended."""

    def __init__(
        self, request: generation_pb2.Request, headers: Mapping[str, str], errors: Errors
    ) -> None:
        self._answer = AnswerEvents(request, headers)
        self._headers = headers
        self._errors = errors
        self._body = bytearray()

    def feed(self, data: bytes) -> Iterable[event_pb2.Event]:
        """Keeps the bytes; there is no event before the end."""
        self._body += data
        if len(self._body) > BODY_LIMIT:
            said = f"the provider sent an answer of more than {BODY_LIMIT} bytes"
            raise _error("upstream_error", said, self._headers)
        return ()

    def close(self) -> Iterable[event_pb2.Event]:
        """All events of the answer."""
        response = _object(bytes(self._body), self._headers)
        if not isinstance(response.get("output"), list):
            if response.get("error"):
                raise _failure(response, self._headers, self._errors)
            said = "the provider's answer is not a response"
            raise _error("upstream_error", said, self._headers)
        return _ended(self._answer, response, self._headers, self._errors)


class StreamDecoder:
    """A stream of events. It is over with one of the terminal ones; what follows is skipped."""

    def __init__(
        self, request: generation_pb2.Request, headers: Mapping[str, str], errors: Errors
    ) -> None:
        self._answer = AnswerEvents(request, headers)
        self._headers = headers
        self._errors = errors
        self._framer = SseFramer(limit=BODY_LIMIT)
        self._ended = False

    def feed(self, data: bytes) -> Iterator[event_pb2.Event]:
        """The events that became whole with these bytes."""
        for name, payload in self._framer.feed(data):
            yield from self._event(name, payload)

    def close(self) -> Iterator[event_pb2.Event]:
        """The last events; a stream without a terminal one was cut."""
        for name, payload in self._framer.close():
            try:
                yield from self._event(name, payload)
            except InferenceError as exc:
                # What lacks its blank line and cannot be read was cut.
                if not isinstance(exc.__cause__, orjson.JSONDecodeError):
                    raise
        if not self._ended:
            said = "the provider's stream ended before the answer was finished"
            raise _error("upstream_incomplete", said, self._headers)

    def _event(self, name: bytes, payload: bytes) -> Iterable[event_pb2.Event]:
        if self._ended or not payload or payload.isspace() or payload.startswith(b"[DONE]"):
            return ()
        event = _object(payload, self._headers)
        kind = text_at(event, "type") or name.decode("utf-8", "replace")
        if kind == "error" or (not kind and event.get("error")):
            raise _failure(event, self._headers, self._errors)
        if kind in _TERMINAL:
            self._ended = True
            response = event.get("response")
            response = response if isinstance(response, dict) else {}
            response["status"] = text_at(response, "status") or kind.partition(".")[2]
            return _ended(self._answer, response, self._headers, self._errors)
        return self._answer.step(kind, event)


_TERMINAL = frozenset(
    {"response.completed", "response.incomplete", "response.failed", "response.cancelled"}
)


def _ended(
    answer: AnswerEvents,
    response: dict[str, Any],
    headers: Mapping[str, str],
    errors: Errors,
) -> Iterable[event_pb2.Event]:
    """The last events of an answer, or why there is none."""
    status = text_at(response, "status")
    if status == "failed" or (status not in _WHOLE and response.get("error")):
        raise _failure(response, headers, errors)
    if status and status not in _WHOLE:
        said = f"the provider ended the answer with status {status[:_SHOWN]!r}"
        raise _error("upstream_error", said, headers)
    return answer.finish(response)


_WHOLE = frozenset({"completed", "incomplete"})


def _failure(said: dict[str, Any], headers: Mapping[str, str], errors: Errors) -> InferenceError:
    """The failure that an error inside a 200 answer stands for, nested or flat."""
    inner = said.get("error")
    inner = inner if isinstance(inner, dict) else said
    error = {name: inner.get(name) for name in ("message", "type", "param", "code")}
    if error["type"] in ("error", "response.failed"):
        error["type"] = None
    words = f"{error['type'] or ''} {error['code'] or ''}".lower()
    failure = errors(_status(words), headers, orjson.dumps({"error": error}))
    # The answer itself came with 200.
    failure.upstream_status = 0
    return failure


def _status(words: str) -> int:
    """What the status would have been."""
    if any(word in words for word in _RATE_LIMITS):
        return 429
    return 400 if any(word in words for word in _CALLERS) else 500


def _object(payload: bytes, headers: Mapping[str, str]) -> dict[str, Any]:
    if not payload.strip():
        raise _error("upstream_incomplete", "the provider sent an empty answer", headers)
    try:
        value = orjson.loads(payload)
    except orjson.JSONDecodeError as exc:
        shown = payload[:_SHOWN].decode("utf-8", "replace")
        raise _error("upstream_error", f"the provider sent no JSON: {shown}", headers) from exc
    if not isinstance(value, dict):
        raise _error("upstream_error", "the provider's answer is not an object", headers)
    return value


def _error(reason: str, message: str, headers: Mapping[str, str]) -> InferenceError:
    return InferenceError(
        reason, message, upstream_status=200, upstream_request_id=request_id(headers)
    )
