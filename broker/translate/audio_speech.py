"""Speech in OpenAI's format: the body of a request, and sound as bytes or as events."""

from __future__ import annotations

import binascii
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from broker.answer import Fold
from broker.errors import InferenceError
from broker.operations import MEDIA_TYPES
from broker.translate import wire
from broker.translate.body import as_it_is, read_body, refuse_known, shaped, write_rest
from broker.translate.errors import error_body
from broker.translate.form import COMMENT, EVENT_STREAM, Stream
from broker.translate.json_bytes import read_json
from broker.translate.refusals import invalid, json_text, missing
from broker.translate.usage import completion_tokens, prompt_tokens
from broker.v1 import event_pb2, generation_pb2, operations_pb2

_Speak = operations_pb2.SpeakRequest

_STREAM_FORMATS = ("audio", "sse")
_SCALARS = ("response_format", "speed", "instructions", "stream_format")
_json = msgspec.json.Encoder().encode


class SpeechRequest(wire.Platform):
    """A text to be spoken."""

    model: wire.Model
    input: Annotated[str, Meta(min_length=1)]
    voice: Annotated[str | wire.Json, Meta(description='A name, or `{"id": ...}`.')]
    response_format: (
        Annotated[str, Meta(description="mp3 (the default), opus, aac, flac, wav or pcm.")] | None
    ) = None
    speed: Annotated[float, Meta(ge=0.25, le=4)] | None = None
    instructions: str | None = None
    stream_format: (
        Annotated[str, Meta(description="audio: the sound itself. sse: events with base64.")] | None
    ) = None


def parse_speech(body: bytes) -> generation_pb2.Request:
    """The hub request for a body.

    Raises:
        InferenceError: invalid_request, with `param` as a path into the body.
    """
    source = read_body(body)
    asked = shaped(source, SpeechRequest)
    _check_words(asked)
    request = generation_pb2.Request()
    speak = request.speak
    speak.model = asked.model
    speak.input = asked.input
    write_rest(request, speak, source, _WRITERS, _DONE)
    return request


def _check_words(asked: SpeechRequest) -> None:
    for param, given, known in (
        ("response_format", asked.response_format, tuple(MEDIA_TYPES)),
        ("stream_format", asked.stream_format, _STREAM_FORMATS),
    ):
        if given is not None and given not in known:
            words = ", ".join(f"'{word}'" for word in known)
            raise invalid(param, f"Invalid value: '{given[:60]}'. Supported values are: {words}.")
    if asked.voice == "":
        raise invalid("voice", "Invalid 'voice': empty string.", "empty_string")


def _voice(speak: _Speak, value: Any) -> None:
    speak.voice = value.encode() if isinstance(value, str) else json_text(value, "voice")


_WRITERS: dict[str, Callable[[Any, Any], None]] = {
    **{name: as_it_is(name) for name in _SCALARS},
    "voice": _voice,
}
_DONE = frozenset({"model", "input"})


def check_speak(request: generation_pb2.Request, body: dict[str, Any]) -> None:
    """The same checks for typed messages; `body` has what is not the operation's own."""
    speak = request.speak
    # Sound comes as events over gRPC in any case.
    body.pop("stream", None)
    for field, value in speak.ListFields():
        if field.name in ("model", "input", *_SCALARS):
            body[field.name] = value
    if not speak.voice:
        raise missing("voice")
    if speak.voice.startswith(b"{"):
        read_json(speak.voice, "voice")
    try:
        body["voice"] = speak.voice.decode()
    except UnicodeDecodeError as exc:
        raise invalid("voice", "Invalid 'voice': it is not valid UTF-8.") from exc
    _check_words(shaped(body, SpeechRequest))
    refuse_known(speak.extra, SpeechRequest)


class SpeechAnswer:
    """Sound as a whole, for who cannot take it in pieces."""

    def __init__(self, _answer_id: str, _created: int, request: generation_pb2.Request) -> None:
        self._fold = Fold()
        self._media_type = _expected(request)

    @property
    def content_type(self) -> bytes:
        """As the provider says it."""
        speech = self._fold.speech
        return (speech.media_type if speech else self._media_type).encode()

    def feed(self, events: Sequence[event_pb2.Event]) -> None:
        """Take more events in. Raises `InferenceError` when the answer failed."""
        self._fold.feed(events)

    def render(self) -> bytes:
        """The sound, once it is complete."""
        speech = self._fold.speech
        return b"".join(speech.pieces) if speech else b""


def speech_stream(_answer_id: str, _created: int, request: generation_pb2.Request) -> Stream:
    """What renders the sound, as the caller wants it."""
    if request.speak.stream_format == "sse":
        return SpeechEvents()
    return SpeechBytes(_expected(request))


class SpeechBytes:
    """The sound itself, as it comes."""

    # Nothing but sound may be sent.
    keep_alive = b""

    def __init__(self, media_type: str) -> None:
        self._media_type = media_type

    @property
    def content_type(self) -> bytes:
        """As the provider says it; known once `feed` gave some."""
        return self._media_type.encode()

    def feed(self, events: Sequence[event_pb2.Event]) -> bytes:
        """The sound of these events. Raises `InferenceError` when the answer failed."""
        pieces = []
        for event in events:
            if event.HasField("audio"):
                self._media_type = event.audio.media_type or self._media_type
                pieces.append(event.audio.data)
            elif event.HasField("failed"):
                raise InferenceError.from_failure(event.failed)
        return b"".join(pieces)

    def finish(self) -> bytes:
        """Nothing: the sound ends where it ends."""
        return b""

    def error(self, _exc: InferenceError) -> None:
        """There is no way to say so: the connection is cut, and nobody takes it for whole."""
        return


class SpeechEvents:
    """Sound as `speech.audio.delta` events, and `speech.audio.done` with the usage."""

    keep_alive = COMMENT
    content_type = EVENT_STREAM

    def __init__(self) -> None:
        self._usage = event_pb2.Usage()

    def feed(self, events: Sequence[event_pb2.Event]) -> bytes:
        """What these events show. Raises `InferenceError` when the answer failed."""
        shown = []
        for event in events:
            if event.HasField("audio"):
                audio = binascii.b2a_base64(event.audio.data, newline=False)
                shown.append(_event("delta", b'"audio":"' + audio + b'"'))
            elif event.HasField("completed"):
                self._usage = event.completed.usage
            elif event.HasField("failed"):
                raise InferenceError.from_failure(event.failed)
        return b"".join(shown)

    def finish(self) -> bytes:
        """The end of a whole answer."""
        read, written = prompt_tokens(self._usage), completion_tokens(self._usage)
        usage = {"input_tokens": read, "output_tokens": written, "total_tokens": read + written}
        return _event("done", b'"usage":' + _json(usage))

    def error(self, exc: InferenceError) -> bytes:
        """The end of an answer that failed."""
        return b"event: error\ndata: " + error_body(exc) + b"\n\n"


def _event(name: str, rest: bytes) -> bytes:
    kind = b"speech.audio." + name.encode()
    return b"event: " + kind + b'\ndata: {"type":"' + kind + b'",' + rest + b"}\n\n"


def _expected(request: generation_pb2.Request) -> str:
    return MEDIA_TYPES[request.speak.response_format or "mp3"]
