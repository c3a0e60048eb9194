"""A form is how one route reads requests and writes answers: pure, one per format and operation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from broker.errors import InferenceError
from broker.translate.errors import error_body, error_status
from broker.translate.multipart import Fields
from broker.v1 import event_pb2, generation_pb2

JSON = b"application/json"
EVENT_STREAM = b"text/event-stream; charset=utf-8"
# A comment line, which readers of server-sent events pass over.
COMMENT = b": keep-alive\n\n"


class Answer(Protocol):
    """Collects one answer and renders it whole."""

    @property
    def content_type(self) -> bytes:
        """Of what `render` gives."""

    def feed(self, events: Sequence[event_pb2.Event]) -> None:
        """Take more events in. Raises `InferenceError` when the answer failed."""

    def render(self) -> bytes | Iterator[bytes]:
        """The body, once the answer is complete; a very large one in pieces."""


class Stream(Protocol):
    """Renders one answer piece by piece."""

    @property
    def keep_alive(self) -> bytes:
        """What may be sent at any time to say that the answer is coming; empty = nothing may."""

    @property
    def content_type(self) -> bytes:
        """`EVENT_STREAM`, or that of the bytes that come; known once `feed` gave some."""

    def feed(self, events: Sequence[event_pb2.Event]) -> bytes:
        """What these events show; empty when nothing yet."""

    def finish(self) -> bytes:
        """The end of a whole answer."""

    def error(self, exc: InferenceError) -> bytes | None:
        """The end of an answer that failed; None where the format has no way to say so."""


def only_in_forms(_body: bytes) -> generation_pb2.Request:
    """`Form.parse` of what cannot come in JSON."""
    message = "send the file in a form, with 'Content-Type: multipart/form-data'"
    raise InferenceError("unsupported_media_type", message)


MakeStream = Callable[[str, int, generation_pb2.Request], Stream]


@dataclass(frozen=True, slots=True)
class Form:
    """One format of one operation.

    `answer` and `stream` take the answer's id, its time in Unix seconds and the request.
    """

    # What it is called in the docs, such as "chat completion".
    title: str
    # Raises `InferenceError` with `param` as a path into the body.
    parse: Callable[[bytes], generation_pb2.Request]
    answer: Callable[[str, int, generation_pb2.Request], Answer]
    stream: MakeStream | None = None
    # The same as `parse`, of a multipart form, where one may come.
    parse_form: Callable[[Fields], generation_pb2.Request] | None = None
    # Which of the form's fields are files, for the docs.
    files: tuple[str, ...] = ()
    # The body of an error reply to the request with this id, and its HTTP status.
    error: Callable[[InferenceError, str], bytes] = error_body
    status: Callable[[InferenceError], int] = error_status
    # A header that tells the request's id beside `x-request-id`.
    request_id: bytes = b""
    # The type that bodies are checked against, for the docs.
    body: type[msgspec.Struct] | None = None
