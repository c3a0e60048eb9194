"""Transcriptions in OpenAI's format, and translations: the form of a request, and its checks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from msgspec import Meta

from broker.errors import InferenceError
from broker.translate import wire
from broker.translate.body import as_it_is, refuse_known, shaped, write_rest
from broker.translate.json_bytes import read_json
from broker.translate.multipart import Fields, File, form_shaped, typed
from broker.translate.refusals import invalid, json_text, missing
from broker.v1 import generation_pb2, operations_pb2

_Transcribe = operations_pb2.TranscribeRequest

FORMATS = ("json", "text", "srt", "verbose_json", "vtt", "diarized_json")
# Formats that can come in pieces.
_STREAMED = ("json", "text", "diarized_json")
_GRANULARITIES = ("word", "segment")
_SCALARS = ("language", "prompt", "response_format", "temperature", "stream")
_LISTS = ("timestamp_granularities", "include")
# Lists that the hub does not know.
_OTHER_LISTS = ("languages", "keywords", "known_speaker_names", "known_speaker_references")


class TranscriptionRequest(wire.Platform):
    """A form with a recording in `file`."""

    model: wire.Model
    language: Annotated[str, Meta(description="ISO 639-1.")] | None = None
    prompt: str | None = None
    response_format: (
        Annotated[str, Meta(description="json, text, srt, verbose_json, vtt or diarized_json.")]
        | None
    ) = None
    temperature: Annotated[float, Meta(ge=0, le=1)] | None = None
    timestamp_granularities: Annotated[
        list[str] | None, Meta(description="word, segment; with verbose_json.")
    ] = None
    include: list[str] | None = None
    stream: bool | None = None
    chunking_strategy: str | wire.Json | None = None


def parse_transcription(form: Fields) -> generation_pb2.Request:
    """The hub request for a form.

    Raises:
        InferenceError: invalid_request, with `param` as the name of a field.
    """
    return _parsed(form, translate=False)


def parse_translation(form: Fields) -> generation_pb2.Request:
    """The same for a translation into English."""
    return _parsed(form, translate=True)


def _parsed(form: Fields, *, translate: bool) -> generation_pb2.Request:
    source = form.source(TranscriptionRequest, lists=(*_LISTS, *_OTHER_LISTS))
    asked = form_shaped(source, TranscriptionRequest)
    _check_together(asked)
    request = generation_pb2.Request()
    transcribe = request.transcribe
    transcribe.model = asked.model
    transcribe.translate = translate
    transcribe.file.CopyFrom(_file(form, source).attachment())
    write_rest(request, transcribe, typed(source, asked), _WRITERS, _DONE)
    return request


def _file(form: Fields, source: dict[str, Any]) -> File:
    files = form.files.get("file", [])
    if "file" in source:
        raise invalid("file", "Invalid 'file': it is a text; send it as a file, with a filename.")
    if not files:
        raise missing("file")
    if len(files) > 1:
        raise invalid("file", f"'file' is there {len(files)} times; send one recording at a time.")
    if not files[0].data:
        raise _empty()
    return files[0]


def _empty() -> InferenceError:
    return invalid("file", "Invalid 'file': it is empty.")


def _check_together(asked: TranscriptionRequest) -> None:
    """What no type says."""
    response_format = asked.response_format or "json"
    _one_of("response_format", response_format, FORMATS)
    for index, word in enumerate(asked.timestamp_granularities or ()):
        _one_of(f"timestamp_granularities[{index}]", word, _GRANULARITIES)
    if asked.timestamp_granularities and response_format != "verbose_json":
        message = "'timestamp_granularities' is only possible with response_format 'verbose_json'."
        raise invalid("timestamp_granularities", message)
    if asked.stream and response_format not in _STREAMED:
        known = ", ".join(f"'{word}'" for word in _STREAMED)
        message = f"'stream' is only possible with response_format {known}."
        raise invalid("stream", message)


def _one_of(param: str, given: str, known: tuple[str, ...]) -> None:
    if given not in known:
        words = ", ".join(f"'{word}'" for word in known)
        raise invalid(param, f"Invalid value: '{given[:60]}'. Supported values are: {words}.")


def _list_of(name: str) -> Callable[[_Transcribe, list[str]], None]:
    def write(transcribe: _Transcribe, value: list[str]) -> None:
        getattr(transcribe, name).extend(value)

    return write


def _chunking(transcribe: _Transcribe, value: Any) -> None:
    transcribe.chunking_strategy = json_text(value, "chunking_strategy")


_WRITERS: dict[str, Callable[[Any, Any], None]] = {
    **{name: as_it_is(name) for name in _SCALARS},
    **{name: _list_of(name) for name in _LISTS},
    "chunking_strategy": _chunking,
}
_DONE = frozenset({"model"})


def check_transcribe(request: generation_pb2.Request, body: dict[str, Any]) -> None:
    """The same checks for typed messages; `body` has what is not the operation's own."""
    transcribe = request.transcribe
    for field, value in transcribe.ListFields():
        if field.name in ("model", *_SCALARS):
            body[field.name] = value
        elif field.name in _LISTS:
            body[field.name] = list(value)
    # Over gRPC, the method that is called says whether the answer is streamed, in events.
    body.pop("stream", None)
    if transcribe.chunking_strategy:
        read_json(transcribe.chunking_strategy, "chunking_strategy")
    _check_together(shaped(body, TranscriptionRequest))
    refuse_known(transcribe.extra, TranscriptionRequest)
    source = transcribe.file.WhichOneof("source")
    if source is None:
        raise missing("file")
    if source == "data" and not transcribe.file.data:
        raise _empty()
    if source in ("url", "file_id"):
        raise invalid("file", "Invalid 'file': send the bytes of the recording in 'data'.")
