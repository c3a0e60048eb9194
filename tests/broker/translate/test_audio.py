"""Audio requests and answers in OpenAI's formats, as forms, as JSON and as typed messages."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from broker.errors import InferenceError
from broker.translate.attachments import detach
from broker.translate.audio_speech import SpeechAnswer, parse_speech, speech_stream
from broker.translate.audio_transcript import TranscriptAnswer, TranscriptStream
from broker.translate.audio_transcription import parse_transcription, parse_translation
from broker.translate.check import check
from broker.translate.form import only_in_forms
from broker.translate.multipart import Fields, File
from broker.v1 import event_pb2, generation_pb2, operations_pb2
from tests.broker.translate.mistakes import refused

SOUND = File("a.wav", "audio/wav", b"RIFF", 2)
Event = event_pb2.Event


def form(*, files: list[File] | None = None, **texts: str | list[str]) -> Fields:
    """A form with a model and a file, unless it says otherwise; an empty list leaves one out."""
    fields: dict[str, list[str]] = {"model": ["m"]}
    for name, given in texts.items():
        fields[name] = [given] if isinstance(given, str) else given
    sent = [SOUND] if files is None else files
    return Fields({k: v for k, v in fields.items() if v}, {"file": sent} if sent else {})


def test_every_field_of_a_form_has_its_place() -> None:
    texts: dict[str, Any] = {
        "language": "en",
        "prompt": "Ünal",
        "response_format": "verbose_json",
        "temperature": "0.5",
        "timestamp_granularities": ["word", "segment"],
        "include": ["logprobs"],
        "chunking_strategy": "auto",
        "known_speaker_names": ["a"],
        "new_field": "1",
        "tags": ["t"],
        "drop_params": "false",
    }
    request = parse_transcription(form(**texts))
    transcribe = request.transcribe
    assert (transcribe.model, transcribe.translate) == ("m", False)
    assert (transcribe.language, transcribe.prompt) == ("en", "Ünal")
    assert (transcribe.response_format, transcribe.temperature) == ("verbose_json", 0.5)
    assert list(transcribe.timestamp_granularities) == ["word", "segment"]
    assert list(transcribe.include) == ["logprobs"]
    assert transcribe.chunking_strategy == b'"auto"'
    assert dict(transcribe.extra) == {"known_speaker_names": b'["a"]', "new_field": b'"1"'}
    assert list(request.platform.tags) == ["t"]
    assert request.platform.drop_params is False
    file = transcribe.file
    assert (file.filename, file.media_type) == ("a.wav", "audio/wav")
    assert (file.reference.number, file.reference.size) == (2, 4)
    assert parse_translation(form()).transcribe.translate


def test_a_strategy_of_several_fields_is_an_object() -> None:
    fields = form()
    fields.texts |= {"chunking_strategy[type]": ["server_vad"], "chunking_strategy[x]": ["2"]}
    strategy = parse_transcription(fields).transcribe.chunking_strategy
    assert json.loads(strategy) == {"type": "server_vad", "x": 2}


EMPTY = File("a.wav", "audio/wav", b"")


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        (form(files=[]), "file", "missing_required_parameter"),
        (form(files=[EMPTY]), "file", "invalid_value"),
        (form(files=[SOUND, SOUND]), "file", "invalid_value"),
        (form(files=[], file="RIFF"), "file", "invalid_value"),
        (form(model=[]), "model", "missing_required_parameter"),
        (form(model=""), "model", "empty_string"),
        (form(model=["a", "b"]), "model", "invalid_value"),
        (form(response_format="mp3"), "response_format", "invalid_value"),
        (form(temperature="hot"), "temperature", "invalid_type"),
        (form(temperature="1.5"), "temperature", "decimal_above_max_value"),
        (form(temperature="-1"), "temperature", "decimal_below_min_value"),
        (form(stream="maybe"), "stream", "invalid_type"),
        (form(stream="true", response_format="srt"), "stream", "invalid_value"),
        (form(stream="true", response_format="verbose_json"), "stream", "invalid_value"),
        (
            form(response_format="verbose_json", timestamp_granularities=["line"]),
            "timestamp_granularities[0]",
            "invalid_value",
        ),
        (form(timestamp_granularities=["word"]), "timestamp_granularities", "invalid_value"),
    ],
)
def test_what_is_wrong_with_a_form_is_told_by_its_field(
    fields: Fields, param: str, code: str
) -> None:
    with refused(param, code):
        parse_transcription(fields)


def test_a_recording_cannot_come_in_json() -> None:
    with pytest.raises(InferenceError) as caught:
        only_in_forms(b"{}")
    assert caught.value.row.http == 415


# Transcripts.

SEGMENTS = [
    operations_pb2.TranscriptSegment(id="0", start_s=0, end_s=2.5, text=" Hi\n\n--> there "),
    operations_pb2.TranscriptSegment(
        id="s1", start_s=2.5, end_s=3661.0425, text="bye", speaker="A", extra={"seek": b"3"}
    ),
]
WORDS = [operations_pb2.TranscriptWord(word="Hi", start_s=0, end_s=0.5)]
WHOLE = operations_pb2.Transcript(
    text="Hi there bye",
    language="english",
    duration_s=3661.5,
    segments=SEGMENTS,
    words=WORDS,
    logprobs=b'[{"token":"Hi"}]',
)
SECONDS = event_pb2.Usage(input_audio_s=3662)
TOKENS = event_pb2.Usage(input_tokens=4, input_audio_tokens=10, output_tokens=3)


def rendered(
    response_format: str,
    transcript: operations_pb2.Transcript = WHOLE,
    usage: event_pb2.Usage = SECONDS,
) -> tuple[bytes, bytes]:
    """Body and content type."""
    asked = operations_pb2.TranscribeRequest(model="m", response_format=response_format)
    answer = TranscriptAnswer("id", 1, generation_pb2.Request(transcribe=asked))
    done = event_pb2.Completed(usage=usage)
    answer.feed([Event(started=event_pb2.Started()), Event(transcript=transcript)])
    answer.feed([Event(completed=done)])
    return answer.render(), answer.content_type


@pytest.mark.parametrize(
    ("response_format", "body"),
    [
        (
            "srt",
            (
                "1\n00:00:00,000 --> 00:00:02,500\nHi\n-> there\n\n"
                "2\n00:00:02,500 --> 01:01:01,042\nbye\n\n"
            ),
        ),
        (
            "vtt",
            (
                "WEBVTT\n\n00:00:00.000 --> 00:00:02.500\nHi\n-> there\n\n"
                "00:00:02.500 --> 01:01:01.042\nbye\n\n"
            ),
        ),
        ("text", "Hi there bye\n"),
    ],
)
def test_plain_formats(response_format: str, body: str) -> None:
    assert rendered(response_format) == (body.encode(), b"text/plain; charset=utf-8")


def test_json_has_what_its_format_has() -> None:
    usage = {"type": "duration", "seconds": 3662}
    body, content_type = rendered("json")
    assert content_type == b"application/json"
    assert json.loads(body) == {
        "text": "Hi there bye",
        "logprobs": [{"token": "Hi"}],
        "usage": usage,
    }
    assert json.loads(rendered("verbose_json")[0]) == {
        "task": "transcribe",
        "language": "english",
        "duration": 3661.5,
        "text": "Hi there bye",
        "segments": [
            {"id": 0, "start": 0.0, "end": 2.5, "text": " Hi\n\n--> there "},
            {
                "id": 1,
                "start": 2.5,
                "end": 3661.0425,
                "text": "bye",
                "speaker": "A",
                "seek": 3,
            },
        ],
        "words": [{"word": "Hi", "start": 0.0, "end": 0.5}],
        "usage": usage,
    }
    spoken = json.loads(rendered("diarized_json")[0])
    assert spoken["segments"][1] == {
        "type": "transcript.text.segment",
        "id": "s1",
        "start": 2.5,
        "end": 3661.0425,
        "speaker": "A",
        "text": "bye",
    }
    assert json.loads(rendered("json", usage=TOKENS)[0])["usage"] == {
        "type": "tokens",
        "input_tokens": 14,
        "input_token_details": {"text_tokens": 4, "audio_tokens": 10},
        "output_tokens": 3,
        "total_tokens": 17,
    }
    assert "usage" not in json.loads(rendered("json", usage=event_pb2.Usage())[0])


def test_subtitles_without_times_are_one_cue_or_an_error() -> None:
    timed = operations_pb2.Transcript(text="Hi", duration_s=1.5)
    assert rendered("srt", timed)[0] == b"1\n00:00:00,000 --> 00:00:01,500\nHi\n\n"
    assert rendered("vtt", operations_pb2.Transcript())[0] == b"WEBVTT\n\n"
    with pytest.raises(InferenceError) as caught:
        rendered("srt", operations_pb2.Transcript(text="Hi"))
    assert caught.value.param == "response_format"


def said(body: bytes) -> list[dict[str, Any]]:
    """The events of a stream, each named as its type says."""
    found = []
    for block in body.decode().split("\n\n")[:-1]:
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        found.append(event)
    return found


def test_a_streamed_transcript_is_deltas_segments_and_the_whole() -> None:
    stream = TranscriptStream.of("id", 1, generation_pb2.Request())
    delta = event_pb2.TextDelta(text="Hi", logprobs=b'[{"token":"Hi"}]')
    assert stream.feed([Event(started=event_pb2.Started())]) == b""
    first = said(stream.feed([Event(text=delta), Event(transcript_segment=SEGMENTS[1])]))
    assert first[0] == {
        "type": "transcript.text.delta",
        "delta": "Hi",
        "logprobs": [{"token": "Hi"}],
    }
    assert (first[1]["type"], first[1]["speaker"]) == ("transcript.text.segment", "A")
    done = Event(completed=event_pb2.Completed(usage=TOKENS))
    assert stream.feed([done]) == b""
    (last,) = said(stream.finish())
    assert (last["type"], last["text"]) == ("transcript.text.done", "Hi")
    assert last["usage"]["total_tokens"] == 17
    error = stream.error(InferenceError("worker_lost", "gone"))
    assert error.startswith(b"event: error\ndata: ")
    assert json.loads(error.partition(b"data: ")[2])["error"]["code"] == "worker_lost"


def test_who_answers_at_once_is_streamed_in_one_piece() -> None:
    stream = TranscriptStream.of("id", 1, generation_pb2.Request())
    done = event_pb2.Completed(usage=SECONDS)
    assert stream.feed([Event(transcript=WHOLE), Event(completed=done)]) == b""
    delta, last = said(stream.finish())
    assert (delta["delta"], last["text"]) == ("Hi there bye", "Hi there bye")
    assert last["usage"] == {"type": "duration", "seconds": 3662}


# Speech.


def speak(**fields: Any) -> generation_pb2.Request:
    body = {"model": "m", "input": "Hello", "voice": "v", **fields}
    return parse_speech(json.dumps({k: v for k, v in body.items() if v is not ...}).encode())


def test_every_field_of_speech_has_its_place() -> None:
    request = speak(
        voice={"id": "v_1"},
        response_format="flac",
        speed=1.5,
        instructions="calm",
        stream_format="sse",
        lang="en",
        tags="a,b",
    )
    asked = request.speak
    assert (asked.model, asked.input, asked.voice) == ("m", "Hello", b'{"id":"v_1"}')
    assert (asked.response_format, asked.speed, asked.instructions) == ("flac", 1.5, "calm")
    assert asked.stream_format == "sse"
    assert dict(asked.extra) == {"lang": b'"en"'}
    assert list(request.platform.tags) == ["a", "b"]


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"input": ...}, "input", "missing_required_parameter"),
        ({"input": ""}, "input", "empty_string"),
        ({"input": 1}, "input", "invalid_type"),
        ({"voice": ...}, "voice", "missing_required_parameter"),
        ({"voice": ""}, "voice", "empty_string"),
        ({"voice": ["a"]}, "voice", "invalid_type"),
        ({"model": ...}, "model", "missing_required_parameter"),
        ({"response_format": "ogg"}, "response_format", "invalid_value"),
        ({"stream_format": "ws"}, "stream_format", "invalid_value"),
        ({"speed": 0.1}, "speed", "decimal_below_min_value"),
        ({"speed": 5}, "speed", "decimal_above_max_value"),
        ({"instructions": 1}, "instructions", "invalid_type"),
    ],
)
def test_what_is_wrong_with_speech_is_told_by_its_field(
    fields: dict[str, Any], param: str, code: str
) -> None:
    with refused(param, code):
        speak(**fields)


def heard(*pieces: bytes, media_type: str = "audio/ogg") -> list[Event]:
    deltas = [event_pb2.AudioDelta(data=piece) for piece in pieces]
    deltas[0].media_type = media_type
    return [Event(started=event_pb2.Started()), *(Event(audio=delta) for delta in deltas)]


def test_sound_is_passed_on_with_the_type_that_the_provider_says() -> None:
    stream = speech_stream("id", 1, speak(response_format="opus"))
    assert stream.content_type == b"audio/opus"
    assert stream.keep_alive == b"", "nothing but sound may be sent"
    assert stream.feed(heard(b"a", b"b")) == b"ab"
    assert stream.content_type == b"audio/ogg"
    assert stream.feed([Event(completed=event_pb2.Completed())]) == b""
    assert stream.finish() == b""
    assert stream.error(InferenceError("worker_lost", "gone")) is None
    answer = SpeechAnswer("id", 1, speak())
    answer.feed(heard(b"a", b"b"))
    assert (answer.render(), answer.content_type) == (b"ab", b"audio/ogg")


def test_sound_as_events_is_base64_and_the_usage() -> None:
    stream = speech_stream("id", 1, speak(stream_format="sse"))
    deltas = said(stream.feed(heard(b"\x00\xff", b"b")))
    assert [base64.b64decode(delta["audio"]) for delta in deltas] == [b"\x00\xff", b"b"]
    used = event_pb2.Usage(input_tokens=5, output_audio_tokens=40)
    stream.feed([Event(completed=event_pb2.Completed(usage=used))])
    assert said(stream.finish()) == [
        {
            "type": "speech.audio.done",
            "usage": {"input_tokens": 5, "output_tokens": 40, "total_tokens": 45},
        }
    ]


# Typed messages.


def typed(**fields: Any) -> generation_pb2.Request:
    file = operations_pb2.Attachment(filename="a.wav", data=b"RIFF")
    asked = operations_pb2.TranscribeRequest(**{"model": "m", "file": file, **fields})
    return generation_pb2.Request(transcribe=asked)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": ""}, "model"),
        ({"response_format": "mp3"}, "response_format"),
        ({"temperature": 2.0}, "temperature"),
        ({"file": operations_pb2.Attachment()}, "file"),
        ({"file": operations_pb2.Attachment(data=b"")}, "file"),
        ({"file": operations_pb2.Attachment(file_id="f")}, "file"),
        ({"chunking_strategy": b"{"}, "chunking_strategy"),
        ({"extra": {"prompt": b'"x"'}}, "prompt"),
        ({"extra": {"new": b"{"}}, "new"),
    ],
)
def test_typed_requests_are_checked_as_forms_are(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InferenceError) as caught:
        check(typed(**fields), streamed=False)
    assert caught.value.param == param


def test_files_are_taken_out_of_typed_requests_and_references_refused() -> None:
    request = typed()
    check(request, streamed=True)
    assert detach(request) == [b"RIFF"]
    assert request.transcribe.file.WhichOneof("source") == "reference"
    assert request.transcribe.file.filename == "a.wav"
    with pytest.raises(InferenceError) as caught:
        detach(request)
    assert caught.value.param == "file"
