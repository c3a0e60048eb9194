"""Transcription and translation in OpenAI's format, as OpenAI and others speak it: forms.

Subtitles are never asked for: they are written at the edge, from the times of the segments, so that
every provider has them and the usage is always told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from broker.errors import InferenceError
from broker.v1 import event_pb2, generation_pb2, operations_pb2
from broker.v1.operations_pb2 import Attachment
from workers.counts import count
from workers.framing import SseFramer
from workers.headers import rate_limits, request_id
from workers.parameters import Losses
from workers.paths import segment
from workers.provider import Call, Decoder, Provider
from workers.whole import WholeDecoder

Errors = Callable[[int, Mapping[str, str], bytes], InferenceError]
_Field = tuple[str, str | Attachment]

ALL = frozenset(
    {"language", "prompt", "temperature", "timestamp_granularities", "include", "chunking_strategy"}
)
# What Whisper knows.
WHISPER = frozenset({"language", "prompt", "temperature", "timestamp_granularities"})
# Formats that show when what was said.
_TIMED = ("srt", "vtt", "verbose_json")
_SHOWN = frozenset({"id", "start", "end", "text", "speaker", "speaker_id", "type"})


@dataclass(frozen=True, slots=True)
class OpenAiTranscriptions:
    """The dialect, with what a provider does differently. It has no state.

    The quirk `paths` says where calls go: `{call}` in it is the path, `{model}` the model.
    """

    # Reads an error answer: status, headers, body.
    errors: Errors
    path: str = "/audio/transcriptions"
    # "" = nothing is translated.
    translations: str = "/audio/translations"
    # The words of `response_format` that are understood; none = the field is not.
    formats: tuple[str, ...] = ("json", "verbose_json")
    # Whether times can be had; without `verbose_json` they come with these granularities.
    timed: bool = True
    # The fields that are understood, of `ALL`, and those that have to be there.
    fields: frozenset[str] = ALL
    needed: tuple[str, ...] = ()
    # Whether the answer can be streamed.
    streamed: bool = False
    # Models that are served elsewhere than at `home`, as long as that is the base URL.
    home: str = ""
    hosts: Mapping[str, str] = field(default_factory=dict)

    def call(self, request: generation_pb2.Request, model: str, provider: Provider) -> Call:
        """The HTTP call for a hub request.

        Raises `InferenceError` for a translation or a format that cannot be had.
        """
        transcribe, losses = request.transcribe, Losses()
        if transcribe.translate and not self.translations:
            message = f"{provider.name} does not offer translation of speech"
            raise InferenceError("unsupported_operation", message, param="model")
        form: list[_Field] = [("model", model), *self._format(transcribe, model)]
        for name in ("language", "prompt", "temperature"):
            if transcribe.HasField(name):
                self._put(form, name, getattr(transcribe, name), losses)
            elif name in self.needed:
                raise InferenceError(
                    "invalid_request", f"{model} has to be told the {name}", param=name
                )
        for name in ("timestamp_granularities", "include"):
            if values := list(getattr(transcribe, name)):
                self._put(form, name, values, losses)
        if transcribe.chunking_strategy:
            strategy = orjson.loads(transcribe.chunking_strategy)
            self._put(form, "chunking_strategy", strategy, losses)
        if transcribe.stream and self.streamed:
            form.append(("stream", "true"))
        for name, data in transcribe.extra.items():
            form += _fields(name, orjson.loads(data))
        form.append(("file", transcribe.file))
        losses.refuse(request.platform, model)
        path = self.translations if transcribe.translate else self.path
        path = provider.quirks.get("paths", "{call}").replace("{call}", path)
        path = path.replace("{model}", segment(model)) if "{" in path else path
        host = self.hosts.get(model, "") if provider.base_url == self.home else ""
        return Call(path, form=tuple(form), dropped=losses.names, base_url=host)

    def decoder(self, request: generation_pb2.Request, headers: Mapping[str, str]) -> Decoder:
        """A decoder for the answer to this request."""
        if headers.get("content-type", "").startswith("text/event-stream"):
            return _EventDecoder(headers, self.errors)

        def read(
            answer: Any,
        ) -> tuple[event_pb2.Started, list[event_pb2.Event], event_pb2.Usage]:
            if not isinstance(answer, dict) or not isinstance(answer.get("text"), str):
                raise self.errors(502, headers, orjson.dumps(answer))
            heard = event_pb2.Event(transcript=_transcript(answer))
            return event_pb2.Started(model=_model(answer)), [heard], _usage(answer)

        return WholeDecoder(headers, read)

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> InferenceError:
        """What an answer with an error status means."""
        return self.errors(status, headers, body)

    def _format(self, transcribe: operations_pb2.TranscribeRequest, model: str) -> list[_Field]:
        wanted = transcribe.response_format or "json"
        asked = "verbose_json" if wanted in _TIMED else wanted
        asked = "json" if asked == "text" else asked
        if asked in self.formats:
            return [("response_format", asked)]
        if asked == "json":
            return []
        if asked != "verbose_json" or not self.timed:
            message = f"{model} does not answer in {wanted}: ask for json or text"
            raise InferenceError("unsupported_parameter", message, param="response_format")
        return (
            [] if transcribe.timestamp_granularities else [("timestamp_granularities[]", "segment")]
        )

    def _put(self, form: list[_Field], name: str, value: Any, losses: Losses) -> None:
        if name in self.fields:
            form += _fields(name, value)
        else:
            losses.drop(name)


def _fields(name: str, value: Any) -> Iterable[_Field]:
    """A value as fields of a form: `name[]` for a list, `name[key]` for an object."""
    if isinstance(value, list):
        for one in value:
            yield from _fields(f"{name}[]", one)
    elif isinstance(value, dict):
        for key, one in value.items():
            yield from _fields(f"{name}[{key}]", one)
    else:
        yield name, value if isinstance(value, str) else orjson.dumps(value).decode()


class _EventDecoder:
    """Decodes a streamed transcript; Mistral's events are named differently, and mean the same."""

    def __init__(self, headers: Mapping[str, str], errors: Errors) -> None:
        self._headers = headers
        self._errors = errors
        self._framer = SseFramer()
        self._started = False
        self._language = ""
        self._pieces: list[str] = []
        self._segments: list[operations_pb2.TranscriptSegment] = []
        self._done = False

    def feed(self, data: bytes) -> Iterable[event_pb2.Event]:
        """The events in these bytes."""
        return self._events(self._framer.feed(data))

    def close(self) -> Iterable[event_pb2.Event]:
        """The rest; raises `InferenceError` when the end was missing."""
        yield from self._events(self._framer.close())
        if not self._done:
            raise InferenceError(
                "upstream_incomplete",
                "the provider's stream ended before its transcript was whole",
                upstream_request_id=request_id(self._headers),
            )

    def _events(self, framed: Iterable[tuple[bytes, bytes]]) -> Iterable[event_pb2.Event]:
        for _, data in framed:
            if self._done or data == b"[DONE]":
                continue
            try:
                said = orjson.loads(data)
                if not isinstance(said, dict):
                    raise ValueError("no object")  # noqa: TRY301, TRY004
                yield from self._read(said, data)
            except (KeyError, TypeError, ValueError) as exc:
                message = f"the provider's event has an unknown form: {exc}"
                raise InferenceError("upstream_error", message) from exc

    def _read(self, said: dict[str, Any], data: bytes) -> Iterable[event_pb2.Event]:
        kind = str(said.get("type", "")).rpartition(".")[2]
        if said.get("error") or kind == "error":
            error = said.get("error")
            status = count(error.get("status_code")) if isinstance(error, dict) else None
            raise self._errors(status or 502, self._headers, data)
        if not self._started:
            self._started = True
            yield event_pb2.Event(
                started=event_pb2.Started(
                    model=_model(said),
                    upstream_request_id=request_id(self._headers),
                    rate_limits=rate_limits(self._headers),
                )
            )
        if kind == "language":
            self._language = str(said.get("audio_language") or said.get("language") or "")
        elif kind == "delta":
            text = str(said["delta"] if "delta" in said else said["text"])
            self._pieces.append(text)
            yield event_pb2.Event(
                text=event_pb2.TextDelta(text=text, logprobs=_json_of(said.get("logprobs")))
            )
        elif kind == "segment":
            segment_ = _segment(said)
            self._segments.append(segment_)
            yield event_pb2.Event(transcript_segment=segment_)
        elif kind == "done":
            self._done = True
            yield event_pb2.Event(transcript=self._whole(said))
            completed = event_pb2.Completed(usage=_usage(said), model=_model(said))
            yield event_pb2.Event(completed=completed)

    def _whole(self, said: dict[str, Any]) -> operations_pb2.Transcript:
        transcript = _transcript(said)
        transcript.text = transcript.text or "".join(self._pieces)
        transcript.language = transcript.language or self._language
        if not transcript.segments:
            transcript.segments.extend(self._segments)
        return transcript


def _transcript(answer: Mapping[str, Any]) -> operations_pb2.Transcript:
    transcript = operations_pb2.Transcript(
        text=answer.get("text") or "",
        language=answer.get("language") or "",
        duration_s=_seconds(answer.get("duration")),
        segments=[_segment(one) for one in answer.get("segments") or ()],
        words=[
            operations_pb2.TranscriptWord(
                word=str(word.get("word") or word.get("text") or ""),
                start_s=_seconds(word.get("start")),
                end_s=_seconds(word.get("end")),
                speaker=_speaker(word),
            )
            for word in answer.get("words") or ()
        ],
        logprobs=_json_of(answer.get("logprobs")),
    )
    if languages := answer.get("languages"):
        transcript.extra["languages"] = orjson.dumps(languages)
    return transcript


def _segment(said: Mapping[str, Any]) -> operations_pb2.TranscriptSegment:
    number = said.get("id")
    return operations_pb2.TranscriptSegment(
        id="" if number is None else str(number),
        start_s=_seconds(said.get("start")),
        end_s=_seconds(said.get("end")),
        text=str(said.get("text") or ""),
        speaker=_speaker(said),
        extra={
            name: orjson.dumps(value)
            for name, value in said.items()
            if name not in _SHOWN and value is not None
        },
    )


def _speaker(said: Mapping[str, Any]) -> str:
    speaker = said.get("speaker", said.get("speaker_id"))
    return "" if speaker is None else str(speaker)


def _seconds(value: Any) -> float:
    """Some servers write seconds in quotes."""
    return float(value) if value is not None else 0.0


def _json_of(value: Any) -> bytes:
    return orjson.dumps(value) if value else b""


def _model(answer: Mapping[str, Any]) -> str:
    model = answer.get("model")
    return model if isinstance(model, str) else ""


def _usage(answer: Mapping[str, Any]) -> event_pb2.Usage:
    """What was used, in tokens, in seconds, or in both."""
    given = answer.get("usage")
    given = given if isinstance(given, dict) else {}
    details = given.get("input_token_details") or given.get("prompt_tokens_details") or {}
    read = count(given.get("input_tokens", given.get("prompt_tokens"))) or 0
    heard = count(details.get("audio_tokens")) or 0
    usage = event_pb2.Usage(
        input_tokens=max(0, read - heard),
        input_audio_tokens=heard,
        output_tokens=count(given.get("output_tokens", given.get("completion_tokens"))) or 0,
    )
    seconds = given.get("seconds", given.get("prompt_audio_seconds"))
    if not given:
        seconds = answer.get("duration")
    if seconds is not None:
        usage.input_audio_s = _seconds(seconds)
    return usage
