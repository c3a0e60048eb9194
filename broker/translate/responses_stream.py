"""Renders the events of an answer as the server-sent events of the Responses API.

Order and fields are those of api.openai.com. Everything that is shown follows from the request and
the events, ids and padding too: the same events, however they are cut into batches, give the same
bytes, so that a stream can be taken up again at any sequence number. A text delta is the hot path:
it is a prefix, the JSON string and a suffix.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import msgspec

from broker.answer import INCOMPLETE_REASONS, Fold
from broker.errors import InferenceError
from broker.items import with_state
from broker.translate.errors import error_body
from broker.translate.form import COMMENT, EVENT_STREAM
from broker.translate.responses_object import (
    IN_PROGRESS,
    QUEUED,
    ResponseObject,
    finished,
    shown,
)
from broker.translate.responses_open import OpenItems
from broker.v1 import event_pb2, generation_pb2, stored_pb2

_json = msgspec.json.Encoder().encode
_PAD = 16

_EVENTS = {
    stored_pb2.RESPONSE_STATUS_COMPLETED: "response.completed",
    stored_pb2.RESPONSE_STATUS_INCOMPLETE: "response.incomplete",
    stored_pb2.RESPONSE_STATUS_FAILED: "response.failed",
    # There is no event of this name: a stream that is cut off by a cancellation just ends.
    stored_pb2.RESPONSE_STATUS_CANCELLED: "response.cancelled",
}


class Writer:
    """Numbers events and writes them; those up to `starting_after` are counted alone."""

    def __init__(self, seed: str, *, obfuscate: bool, starting_after: int = -1) -> None:
        self._seed = seed.encode()
        self._obfuscate = obfuscate
        self._after = starting_after
        self._next = 0
        self.out: list[bytes] = []

    def write(self, kind: str, fields: dict[str, Any]) -> None:
        """One event; `fields` stand behind its type and number."""
        number = self._number()
        if number > self._after:
            event = {"type": kind, "sequence_number": number, **fields}
            self.out.append(b"event: %b\ndata: %b\n\n" % (kind.encode(), _json(event)))

    def head(self, kind: str, fields: dict[str, Any]) -> tuple[bytes, bytes]:
        """What all deltas of one text begin with, before and behind the number."""
        begin = b'event: %b\ndata: {"type":"%b","sequence_number":'
        return begin % (kind.encode(), kind.encode()), b"," + _json(fields)[1:-1] + b',"delta":'

    def delta(self, head: tuple[bytes, bytes], text: str, rest: bytes = b"") -> None:
        """A piece of a text; `rest` are further fields."""
        number = self._number()
        if number > self._after:
            padding = self._padding(number, text) if self._obfuscate else b""
            out = (head[0], b"%d" % number, head[1], _json(text), rest, padding, b"}\n\n")
            self.out.append(b"".join(out))

    def taken(self) -> bytes:
        """All that was written since."""
        data = b"".join(self.out)
        self.out.clear()
        return data

    def _number(self) -> int:
        number = self._next
        self._next = number + 1
        return number

    def _padding(self, number: int, text: str) -> bytes:
        """Letters that make all deltas about equally long, to whoever sees only lengths."""
        digest = hashlib.blake2b(b"%b:%d" % (self._seed, number), digest_size=_PAD).hexdigest()
        return b',"obfuscation":"%b"' % digest[: _PAD - len(text) % _PAD].encode()


class ResponsesStream:
    """Turns one answer's events into bytes that are ready to send."""

    content_type = EVENT_STREAM
    keep_alive = COMMENT

    def __init__(
        self,
        answer_id: str,
        created: int,
        request: generation_pb2.Request,
        *,
        starting_after: int = -1,
        include_obfuscation: bool | None = None,
    ) -> None:
        generate = request.generate
        if include_obfuscation is None:
            options = generate.stream_options
            asked = options.HasField("include_obfuscation")
            include_obfuscation = options.include_obfuscation if asked else True
        self._id = answer_id
        self._created = created
        self._request = request
        self._background = generate.responses.background
        self._object = ResponseObject(answer_id, created, request)
        self._fold = Fold()
        self._writer = Writer(
            answer_id, obfuscate=include_obfuscation, starting_after=starting_after
        )
        self._items = OpenItems(answer_id, self._fold, self._writer, with_state=with_state(request))
        self._begun = False
        self._started = False
        self._complete = False
        self._ended = False
        self._failure: event_pb2.Failure | None = None
        self._kept: stored_pb2.StoredResponse | None = None

    @classmethod
    def of(cls, answer_id: str, created: int, request: generation_pb2.Request) -> ResponsesStream:
        """A stream as this request asks for it."""
        return cls(answer_id, created, request)

    @property
    def begun(self) -> bool:
        """Whether the response's id was shown."""
        return self._begun

    def begin(self) -> bytes:
        """What is known before an answer: in the background, that the response is queued.

        `feed` calls it; it shows nothing a second time.
        """
        if not self._begun:
            self._begun = True
            status = QUEUED if self._background else IN_PROGRESS
            self._show("response.created", status)
            if self._background:
                self._show("response.queued", status)
        return self._writer.taken()

    def feed(self, events: Sequence[event_pb2.Event]) -> bytes:
        """What these events show: all but the terminal one. An answer that failed ends in it."""
        out: list[bytes] = []
        for event in events:
            kind = event.WhichOneof("kind")
            if kind is None or self._ended:
                continue
            if kind == "failed":
                out.append(self.error(InferenceError.from_failure(event.failed)))
                continue
            self._fold.feed((event,))
            if kind == "started":
                out.append(self._begin(event.started))
            elif kind == "completed":
                out.append(self._begin(self._fold.started))
                self._complete = True
                self._items.close_all(incomplete=bool(self._incomplete()))
            else:
                self._items.take(kind, getattr(event, kind))
        out.append(self._writer.taken())
        return b"".join(out)

    def stored(
        self, *, completed_at: int = 0, error: InferenceError | None = None
    ) -> stored_pb2.StoredResponse:
        """The response as it is to be kept, so that it can be before `finish` or `error` is sent.

        `completed_at` is in Unix seconds; the terminal event says the same.
        """
        kept = finished(self._request, self._fold.answer(self._id, self._created))
        failure = error.to_failure() if error is not None else self._failure
        if failure is not None:
            kept.status = stored_pb2.RESPONSE_STATUS_FAILED
            kept.failure.CopyFrom(failure)
        elif not self._complete:
            kept.status = stored_pb2.RESPONSE_STATUS_IN_PROGRESS
        else:
            kept.completed_at = completed_at
        self._kept = kept
        return kept

    def finish(self, kept: stored_pb2.StoredResponse | None = None) -> bytes:
        """The terminal event of a whole answer; `kept` is what was stored, if by someone else."""
        if self._ended:
            return b""
        self._ended = True
        kept = kept or self._kept or self.stored()
        self._writer.write(_EVENTS[kept.status], {"response": shown(kept, self._object)})
        return self._writer.taken()

    def error(self, exc: InferenceError) -> bytes:
        """The terminal event of an answer that failed; `error` where nothing was said of it yet."""
        if self._ended:
            return b""
        self._ended = True
        self._failure = exc.to_failure()
        if self._begun:
            kept = self.stored(error=exc)
            self._writer.write("response.failed", {"response": shown(kept, self._object)})
        else:
            # Flat as the schema has it, and nested as it is sent and as SDKs read it.
            error = msgspec.json.decode(error_body(exc))["error"]
            flat = {"code": exc.code, "message": exc.message, "param": exc.param}
            self._writer.write("error", {**flat, "error": error})
        return self._writer.taken()

    def _begin(self, started: event_pb2.Started) -> bytes:
        if self._started:
            return b""
        self._started = True
        data = self.begin()
        self._show("response.in_progress", IN_PROGRESS, started)
        return data

    def _show(self, kind: str, status: str, started: event_pb2.Started | None = None) -> None:
        started = started or self._fold.started
        self._writer.write(
            kind,
            {
                "response": self._object.shown(
                    status, model=started.model, service_tier=started.service_tier
                )
            },
        )

    def _incomplete(self) -> str:
        """Why the answer is not all that there could be; "" when it is."""
        reason = self._fold.choice(0).finish_reason
        return "" if reason is None else INCOMPLETE_REASONS.get(reason, "")
