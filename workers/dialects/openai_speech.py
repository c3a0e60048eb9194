"""Speech in OpenAI's format: the sound itself, events with base64, or one JSON object with it."""

from __future__ import annotations

from binascii import Error as Base64Error
from binascii import a2b_base64
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from broker.errors import InferenceError
from broker.operations import MEDIA_TYPES
from broker.v1 import event_pb2, generation_pb2
from workers.counts import count
from workers.framing import SseFramer
from workers.headers import rate_limits, request_id
from workers.parameters import Losses
from workers.paths import segment
from workers.provider import Call, Decoder, Provider
from workers.whole import WholeDecoder

Errors = Callable[[int, Mapping[str, str], bytes], InferenceError]
_HEADERS = {"content-type": "application/json"}

_SAME = {name: name for name in MEDIA_TYPES}


@dataclass(frozen=True, slots=True)
class OpenAiSpeech:
    """The dialect, with what a provider does differently. It has no state.

    The quirk `paths` says where calls go: `{call}` in it is the path, `{model}` the model.
    """

    # Reads an error answer: status, headers, body.
    errors: Errors
    path: str = "/audio/speech"
    # The formats that can be had, and what the provider calls them.
    formats: Mapping[str, str] = field(default_factory=lambda: _SAME)
    # Whether these are understood.
    speed: bool = True
    instructions: bool = True
    # Whether `stream_format` is, for its events tell the usage.
    events: bool = False

    def call(self, request: generation_pb2.Request, model: str, provider: Provider) -> Call:
        """The HTTP call for a hub request. Raises `InferenceError` for a format not to be had."""
        speak, losses = request.speak, Losses()
        body: dict[str, Any] = {"model": model, "input": speak.input, "voice": _voice(speak.voice)}
        if speak.HasField("response_format"):
            if speak.response_format not in self.formats:
                known = ", ".join(self.formats)
                message = f"{model} does not speak in {speak.response_format}: ask for {known}"
                raise InferenceError("unsupported_parameter", message, param="response_format")
            body["response_format"] = self.formats[speak.response_format]
        for name, understood in (("speed", self.speed), ("instructions", self.instructions)):
            if speak.HasField(name) and understood:  # type: ignore[arg-type]
                body[name] = getattr(speak, name)
            elif speak.HasField(name):  # type: ignore[arg-type]
                losses.drop(name)
        if self.events and speak.stream_format == "sse" and not model.startswith("tts-1"):
            body["stream_format"] = "sse"
        for name, data in speak.extra.items():
            body.setdefault(name, orjson.Fragment(data))
        losses.refuse(request.platform, model)
        path = provider.quirks.get("paths", "{call}").replace("{call}", self.path)
        path = path.replace("{model}", segment(model)) if "{" in path else path
        return Call(path, orjson.dumps(body), _HEADERS, dropped=losses.names)

    def decoder(self, request: generation_pb2.Request, headers: Mapping[str, str]) -> Decoder:
        """A decoder for the answer to this request."""
        said = headers.get("content-type", "").partition(";")[0].strip().lower()
        media_type = said if said.startswith("audio/") else ""
        media_type = media_type or MEDIA_TYPES[request.speak.response_format or "mp3"]
        # Sound alone tells no usage; what is spoken is what most providers bill.
        counted = event_pb2.Usage(characters=len(request.speak.input), estimated=True)
        if said == "text/event-stream":
            return _EventDecoder(headers, self.errors, media_type, counted)
        if said != "application/json":
            return _SoundDecoder(headers, media_type, counted)

        def read(
            answer: Any,
        ) -> tuple[event_pb2.Started, list[event_pb2.Event], event_pb2.Usage]:
            sound = answer.get("audio_data", answer.get("audio"))
            if not isinstance(sound, str):
                raise self.errors(502, headers, orjson.dumps(answer))
            delta = event_pb2.AudioDelta(data=a2b_base64(sound), media_type=media_type)
            usage = _usage(answer.get("usage")) or counted
            return event_pb2.Started(), [event_pb2.Event(audio=delta)], usage

        return WholeDecoder(headers, read)

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> InferenceError:
        """What an answer with an error status means."""
        return self.errors(status, headers, body)


def _voice(voice: bytes) -> Any:
    return orjson.Fragment(voice) if voice.startswith(b"{") else voice.decode()


def _usage(given: Any) -> event_pb2.Usage | None:
    if not isinstance(given, dict):
        return None
    read = count(given.get("input_tokens", given.get("prompt_tokens")))
    written = count(given.get("output_tokens", given.get("completion_tokens")))
    if read is None and written is None:
        return None
    return event_pb2.Usage(input_tokens=read or 0, output_audio_tokens=written or 0)


class _SoundDecoder:
    """Passes the sound on as it comes."""

    def __init__(self, headers: Mapping[str, str], media_type: str, usage: event_pb2.Usage) -> None:
        self._headers = headers
        self._media_type = media_type
        self._usage = usage
        self._begun = False

    def feed(self, data: bytes) -> Iterable[event_pb2.Event]:
        """These bytes."""
        return self._heard(data) if data else []

    def close(self) -> Iterable[event_pb2.Event]:
        """The end; raises `InferenceError` when there was no sound."""
        if not self._begun:
            raise InferenceError(
                "upstream_incomplete",
                "the provider sent no sound",
                upstream_request_id=request_id(self._headers),
            )
        return self._end(self._usage)

    def _heard(self, data: bytes) -> list[event_pb2.Event]:
        if self._begun:
            return [event_pb2.Event(audio=event_pb2.AudioDelta(data=data))]
        self._begun = True
        started = event_pb2.Started(
            upstream_request_id=request_id(self._headers), rate_limits=rate_limits(self._headers)
        )
        first = event_pb2.AudioDelta(data=data, media_type=self._media_type)
        return [event_pb2.Event(started=started), event_pb2.Event(audio=first)]

    def _end(self, usage: event_pb2.Usage) -> list[event_pb2.Event]:
        return [event_pb2.Event(completed=event_pb2.Completed(usage=usage))]


class _EventDecoder(_SoundDecoder):
    """Takes the sound out of events."""

    def __init__(
        self, headers: Mapping[str, str], errors: Errors, media_type: str, usage: event_pb2.Usage
    ) -> None:
        super().__init__(headers, media_type, usage)
        self._errors = errors
        self._framer = SseFramer()
        self._done = False

    def feed(self, data: bytes) -> Iterable[event_pb2.Event]:
        """The sound in these bytes, and the end where it is there."""
        return self._read(self._framer.feed(data))

    def close(self) -> Iterable[event_pb2.Event]:
        """The rest; raises `InferenceError` when the end was missing."""
        yield from self._read(self._framer.close())
        if not self._done:
            raise InferenceError(
                "upstream_incomplete",
                "the provider's stream ended before the sound was whole",
                upstream_request_id=request_id(self._headers),
            )

    def _read(self, framed: Iterable[tuple[bytes, bytes]]) -> Iterable[event_pb2.Event]:
        for _, data in framed:
            if self._done or data == b"[DONE]":
                continue
            try:
                said = orjson.loads(data)
                kind = str(said.get("type", "")).rpartition(".")[2]
                sound = a2b_base64(said["audio"]) if kind == "delta" else b""
            except (KeyError, TypeError, AttributeError, ValueError, Base64Error) as exc:
                message = f"the provider's event has an unknown form: {exc}"
                raise InferenceError("upstream_error", message) from exc
            if said.get("error") or kind == "error":
                raise self._errors(502, self._headers, data)
            if sound:
                yield from self._heard(sound)
            if kind == "done":
                self._done = True
                yield from self._end(_usage(said.get("usage")) or self._usage)
