"""Transcripts in OpenAI's formats: JSON, text, subtitles, and events."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Raw

from broker.answer import Fold
from broker.errors import InferenceError
from broker.translate.errors import error_body
from broker.translate.form import COMMENT, EVENT_STREAM, JSON
from broker.translate.usage import completion_tokens, prompt_tokens
from broker.v1 import event_pb2, generation_pb2, operations_pb2

_Transcript = operations_pb2.Transcript
_Segment = operations_pb2.TranscriptSegment
_TEXT = b"text/plain; charset=utf-8"
_json = msgspec.json.Encoder().encode


def audio_usage(usage: event_pb2.Usage | None) -> dict[str, Any] | None:
    """`usage` as transcripts show it: in tokens, else in seconds; None where nobody counted."""
    if usage is None:
        return None
    read, written = prompt_tokens(usage), completion_tokens(usage)
    if read or written:
        return {
            "type": "tokens",
            "input_tokens": read,
            "input_token_details": {
                "text_tokens": read - usage.input_audio_tokens,
                "audio_tokens": usage.input_audio_tokens,
            },
            "output_tokens": written,
            "total_tokens": read + written,
        }
    if usage.HasField("input_audio_s"):
        return {"type": "duration", "seconds": _number(usage.input_audio_s)}
    return None


class TranscriptAnswer:
    """Takes the events of one answer in and renders the transcript."""

    def __init__(self, _answer_id: str, _created: int, request: generation_pb2.Request) -> None:
        self._fold = Fold()
        self._translate = request.transcribe.translate
        self._format = request.transcribe.response_format or "json"

    @property
    def content_type(self) -> bytes:
        """JSON or plain text."""
        return JSON if self._format.endswith("json") else _TEXT

    def feed(self, events: Sequence[event_pb2.Event]) -> None:
        """Take more events in. Raises `InferenceError` when the answer failed."""
        self._fold.feed(events)

    def render(self) -> bytes:
        """The body, once the answer is complete."""
        fold = self._fold
        return _RENDER[self._format](
            fold.transcript or _Transcript(),
            audio_usage(fold.usage),
            "translate" if self._translate else "transcribe",
        )


def _plain(transcript: _Transcript, usage: dict[str, Any] | None, _task: str) -> bytes:
    return _json(_with_usage(_text_and_logprobs(transcript), usage))


def _text(transcript: _Transcript, _usage: dict[str, Any] | None, _task: str) -> bytes:
    return transcript.text.encode() + b"\n"


def _verbose(transcript: _Transcript, usage: dict[str, Any] | None, task: str) -> bytes:
    shown: dict[str, Any] = {
        "task": task,
        "language": transcript.language,
        "duration": transcript.duration_s,
        "text": transcript.text,
    }
    if transcript.segments:
        shown["segments"] = [_segment(at, one) for at, one in enumerate(transcript.segments)]
    if transcript.words:
        shown["words"] = [
            {"word": word.word, "start": word.start_s, "end": word.end_s}
            for word in transcript.words
        ]
    for name, value in transcript.extra.items():
        shown.setdefault(name, Raw(value))
    return _json(_with_usage(shown, usage))


def _diarized(transcript: _Transcript, usage: dict[str, Any] | None, task: str) -> bytes:
    segments = [_spoken(at, segment) for at, segment in enumerate(transcript.segments)]
    shown = {
        "task": task,
        "duration": transcript.duration_s,
        "text": transcript.text,
        "segments": segments,
    }
    return _json(_with_usage(shown, usage))


def _srt(transcript: _Transcript, _usage: dict[str, Any] | None, _task: str) -> bytes:
    cues = []
    for number, (start, end, text) in enumerate(_cues(transcript), 1):
        cues.append(f"{number}\n{_time(start, ',')} --> {_time(end, ',')}\n{text}\n\n")
    return "".join(cues).encode()


def _vtt(transcript: _Transcript, _usage: dict[str, Any] | None, _task: str) -> bytes:
    cues = [
        f"{_time(start, '.')} --> {_time(end, '.')}\n{text}\n\n"
        for start, end, text in _cues(transcript)
    ]
    return ("WEBVTT\n\n" + "".join(cues)).encode()


_RENDER: Mapping[str, Callable[[_Transcript, dict[str, Any] | None, str], bytes]] = {
    "json": _plain,
    "text": _text,
    "srt": _srt,
    "verbose_json": _verbose,
    "vtt": _vtt,
    "diarized_json": _diarized,
}


def _cues(transcript: _Transcript) -> Iterable[tuple[float, float, str]]:
    """What is shown, and from when to when.

    Raises `InferenceError` where the provider gave a text without times.
    """
    if not transcript.segments and transcript.text.strip():
        if not transcript.duration_s:
            raise InferenceError(
                "unsupported_parameter",
                "the model gave no times, which subtitles need: ask for json or text",
                param="response_format",
            )
        yield 0.0, transcript.duration_s, _cue(transcript.text)
    for segment in transcript.segments:
        yield segment.start_s, segment.end_s, _cue(segment.text)


def _cue(text: str) -> str:
    """A text that cannot end its cue, nor be taken for a line of times."""
    lines = (line.strip() for line in text.replace("-->", "->").splitlines())
    return "\n".join(line for line in lines if line)


def _time(seconds: float, point: str) -> str:
    """`00:00:01,500`, as subtitles have it."""
    whole, ms = divmod(round(max(0.0, seconds) * 1000), 1000)
    minutes, second = divmod(whole, 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours:02d}:{minute:02d}:{second:02d}{point}{ms:03d}"


def _segment(at: int, segment: _Segment) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "id": int(segment.id) if segment.id.isdecimal() else at,
        "start": segment.start_s,
        "end": segment.end_s,
        "text": segment.text,
    }
    if segment.speaker:
        shown["speaker"] = segment.speaker
    for name, value in segment.extra.items():
        shown.setdefault(name, Raw(value))
    return shown


def _spoken(at: int, segment: _Segment) -> dict[str, Any]:
    return {
        "type": "transcript.text.segment",
        "id": segment.id or f"seg_{at}",
        "start": segment.start_s,
        "end": segment.end_s,
        "speaker": segment.speaker,
        "text": segment.text,
    }


def _text_and_logprobs(transcript: _Transcript) -> dict[str, Any]:
    shown: dict[str, Any] = {"text": transcript.text}
    if transcript.logprobs:
        shown["logprobs"] = Raw(transcript.logprobs)
    return shown


def _with_usage(shown: dict[str, Any], usage: dict[str, Any] | None) -> dict[str, Any]:
    return shown if usage is None else {**shown, "usage": usage}


def _number(value: float) -> float:
    return int(value) if value == int(value) else value


class TranscriptStream:
    """Renders one transcript as events: deltas, segments, and `transcript.text.done`."""

    keep_alive = COMMENT
    content_type = EVENT_STREAM

    def __init__(self, _answer_id: str, _created: int, _request: generation_pb2.Request) -> None:
        self._fold = Fold()
        self._said: list[str] = []
        self._segments = 0

    @classmethod
    def of(cls, answer_id: str, created: int, request: generation_pb2.Request) -> TranscriptStream:
        """One for an answer."""
        return cls(answer_id, created, request)

    def feed(self, events: Sequence[event_pb2.Event]) -> bytes:
        """What these events show. Raises `InferenceError` when the answer failed."""
        self._fold.feed(events)
        shown = []
        for event in events:
            if event.HasField("text"):
                shown.append(self._delta(event.text.text, event.text.logprobs))
            elif event.HasField("transcript_segment"):
                segment = event.transcript_segment
                shown.append(_event(_spoken(self._segments, segment)))
                self._segments += 1
        return b"".join(shown)

    def finish(self) -> bytes:
        """The end of a whole answer."""
        transcript = self._fold.transcript or _Transcript(text="".join(self._said))
        # A provider that answers at once gave no deltas; readers count on them.
        first = b"" if self._said else self._delta(transcript.text, transcript.logprobs)
        done = _with_usage(_text_and_logprobs(transcript), audio_usage(self._fold.usage))
        return first + _event({"type": "transcript.text.done", **done})

    def error(self, exc: InferenceError) -> bytes:
        """The end of an answer that failed."""
        return b"event: error\ndata: " + error_body(exc) + b"\n\n"

    def _delta(self, text: str, logprobs: bytes) -> bytes:
        self._said.append(text)
        shown: dict[str, Any] = {"type": "transcript.text.delta", "delta": text}
        if logprobs:
            shown["logprobs"] = Raw(logprobs)
        return _event(shown)


def _event(shown: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (shown["type"].encode(), _json(shown))
