"""Speech and transcription as generateContent: of models that speak, and of any that listens.

Sound comes as raw samples: what else than `wav` and `pcm` is wanted is not to be had. A recording
is a part of the conversation, so it has to be here whole, and no times come with what was heard.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from broker.errors import InferenceError
from broker.v1 import content_pb2, event_pb2, generation_pb2, operations_pb2
from workers.dialects.gemini.decoder import GeminiDecoder
from workers.dialects.gemini.errors import error_of
from workers.dialects.gemini.request import write
from workers.dialects.gemini.surroundings import Surroundings
from workers.parameters import Losses
from workers.provider import Call, Decoder, Provider, data_of

_Event = event_pb2.Event
# response_format -> how the samples are wrapped, and the MIME type; the first is the default.
_SOUNDS = {"wav": ("wav", "audio/wav"), "pcm": ("pcm16", "audio/pcm")}
_FILTERED = event_pb2.FINISH_REASON_CONTENT_FILTER
_TASKS = {
    False: "Transcribe this recording word for word, in its own language.",
    True: "Translate what is said in this recording into English.",
}
_ALONE = "Answer with the text alone: no remarks, no times, no names of speakers."


@dataclass(frozen=True, slots=True)
class GeminiSpeech:
    """The dialect in one of its homes."""

    home: Surroundings

    def call(self, request: generation_pb2.Request, model: str, provider: Provider) -> Call:
        """The HTTP call for a hub request."""
        losses = Losses()
        if request.speak.HasField("speed"):
            losses.drop("speed")
        losses.refuse(request.platform, model)
        call = write(_spoken(request), model, provider, self.home)
        return replace(call, dropped=(*losses.names, *call.dropped))

    def decoder(self, request: generation_pb2.Request, headers: Mapping[str, str]) -> Decoder:
        """A decoder for the answer to this request."""
        _, media_type = _sound(request.speak)
        answer = GeminiDecoder(_spoken(request), headers, self.home.issuer)
        return _SoundAlone(answer, media_type)

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> InferenceError:
        """What an answer with an error status means."""
        return error_of(status, headers, body)


def _sound(speak: operations_pb2.SpeakRequest) -> tuple[str, str]:
    wanted = speak.response_format or next(iter(_SOUNDS))
    if wanted not in _SOUNDS:
        message = f"Gemini's sound comes as {' or '.join(_SOUNDS)}, not {wanted}"
        raise InferenceError("unsupported_parameter", message, param="response_format")
    return _SOUNDS[wanted]


def _spoken(request: generation_pb2.Request) -> generation_pb2.Request:
    """The request as a conversation that is answered with sound."""
    speak = request.speak
    asked = generation_pb2.Request(platform=request.platform)
    generate = asked.generate
    generate.model = speak.model
    generate.modalities.append("audio")
    generate.audio.format, _ = _sound(speak)
    generate.audio.voice = speak.voice
    text = f"{speak.instructions}\n\n{speak.input}" if speak.instructions else speak.input
    generate.messages.add(role=content_pb2.ROLE_USER).parts.add().text.text = text
    for name, data in speak.extra.items():
        generate.extra[name] = data
    return asked


class _Alone(ABC):
    """Passes on what an operation answers with, and leaves out the rest of a conversation."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._said: list[str] = []
        self._reason = event_pb2.FINISH_REASON_UNSPECIFIED

    def feed(self, data: bytes) -> Iterator[_Event]:
        """Events that became whole with these bytes."""
        return self._over(self._decoder.feed(data))

    def close(self) -> Iterator[_Event]:
        """The last events. Raises `InferenceError` where there is no whole answer."""
        return self._over(self._decoder.close())

    def _over(self, events: Iterable[_Event]) -> Iterator[_Event]:
        for event in events:
            kind = event.WhichOneof("kind")
            if kind in ("text", "refusal"):
                self._said.append(getattr(event, kind).text)
            elif kind == "choice_finished":
                self._reason = event.choice_finished.reason
            if kind == "completed":
                yield from self._end()
            if kind in ("started", "completed"):
                yield event
            else:
                yield from self._shown(event)

    @abstractmethod
    def _shown(self, event: _Event) -> Iterable[_Event]:
        """What a step of the conversation is to the caller."""

    @abstractmethod
    def _end(self) -> Iterable[_Event]:
        """What comes before the end. Raises `InferenceError` where it is none."""

    def _filtered(self, param: str) -> InferenceError:
        said = "".join(self._said) or "the provider's filter let no answer through"
        return InferenceError("content_policy_violation", said, param=param)


class _SoundAlone(_Alone):
    def __init__(self, decoder: Decoder, media_type: str) -> None:
        super().__init__(decoder)
        self._media_type = media_type
        self._begun = False

    def _shown(self, event: _Event) -> Iterable[_Event]:
        if event.HasField("audio"):
            heard = event_pb2.AudioDelta(data=event.audio.data)
            if not self._begun:
                self._begun = True
                heard.media_type = self._media_type
            yield _Event(audio=heard)

    def _end(self) -> Iterable[_Event]:
        if self._reason == _FILTERED:
            raise self._filtered("input")
        if not self._begun:
            raise InferenceError("upstream_error", "the model said nothing aloud")
        return ()


@dataclass(frozen=True, slots=True)
class GeminiTranscriptions:
    """The dialect in one of its homes."""

    home: Surroundings

    def call(self, request: generation_pb2.Request, model: str, provider: Provider) -> Call:
        """The HTTP call for a hub request. Raises `Detached` while the recording is elsewhere."""
        transcribe, losses = request.transcribe, Losses()
        if (wanted := transcribe.response_format or "json") not in ("json", "text"):
            message = f"{model} tells no times: ask for json or text instead of {wanted}"
            raise InferenceError("unsupported_parameter", message, param="response_format")
        for name, given in (
            ("include", transcribe.include),
            ("chunking_strategy", transcribe.chunking_strategy),
        ):
            if given:
                losses.drop(name)
        losses.refuse(request.platform, model)
        asked = _heard(request)
        parts = asked.generate.messages.add(role=content_pb2.ROLE_USER).parts
        recording = parts.add().audio
        recording.inline.data = data_of(transcribe.file)
        recording.inline.media_type = transcribe.file.media_type
        recording.format = transcribe.file.filename.rpartition(".")[2]
        parts.add().text.text = _task(transcribe)
        call = write(asked, model, provider, self.home)
        return replace(call, dropped=(*losses.names, *call.dropped))

    def decoder(self, request: generation_pb2.Request, headers: Mapping[str, str]) -> Decoder:
        """A decoder for the answer to this request."""
        answer = GeminiDecoder(_heard(request), headers, self.home.issuer)
        return _TextAlone(answer, streamed=request.transcribe.stream)

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> InferenceError:
        """What an answer with an error status means."""
        return error_of(status, headers, body)


def _heard(request: generation_pb2.Request) -> generation_pb2.Request:
    """The request as a conversation, without its one message."""
    transcribe = request.transcribe
    asked = generation_pb2.Request(platform=request.platform)
    generate = asked.generate
    generate.model = transcribe.model
    if transcribe.stream:
        generate.stream = True
    if transcribe.HasField("temperature"):
        generate.temperature = transcribe.temperature
    for name, data in transcribe.extra.items():
        generate.extra[name] = data
    return asked


def _task(transcribe: operations_pb2.TranscribeRequest) -> str:
    lines = [_TASKS[transcribe.translate]]
    if transcribe.language:
        lines.append(f"The language spoken is {transcribe.language}.")
    if transcribe.prompt:
        lines.append(f"This may help with names and style: {transcribe.prompt}")
    return "\n".join([*lines, _ALONE])


class _TextAlone(_Alone):
    def __init__(self, decoder: Decoder, *, streamed: bool) -> None:
        super().__init__(decoder)
        self._streamed = streamed

    def _shown(self, event: _Event) -> Iterable[_Event]:
        if self._streamed and event.HasField("text"):
            yield _Event(text=event_pb2.TextDelta(text=event.text.text))

    def _end(self) -> Iterable[_Event]:
        if self._reason == _FILTERED:
            raise self._filtered("file")
        if self._reason == event_pb2.FINISH_REASON_LENGTH:
            message = "the model's answer reached its greatest length before the recording's end"
            raise InferenceError("upstream_incomplete", message)
        yield _Event(transcript=operations_pb2.Transcript(text="".join(self._said)))
