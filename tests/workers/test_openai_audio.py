"""Audio on the wire of each provider: what is sent, what its answers mean."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any

import pytest

from broker.errors import InferenceError
from broker.operations import SPEAK, TRANSCRIBE
from broker.v1 import event_pb2, generation_pb2, operations_pb2
from workers.provider import Call
from workers.registry import provider as provider_of

FILE = operations_pb2.Attachment(filename="a.wav", data=b"RIFF")
EVENTS = {"content-type": "text/event-stream", "x-request-id": "up"}


def heard(**fields: Any) -> generation_pb2.Request:
    asked = operations_pb2.TranscribeRequest(model="m", file=FILE, **fields)
    return generation_pb2.Request(transcribe=asked)


def spoken(**fields: Any) -> generation_pb2.Request:
    asked = operations_pb2.SpeakRequest(model="m", input="Hello", **{"voice": b"v", **fields})
    return generation_pb2.Request(speak=asked)


def call_of(provider: str, request: generation_pb2.Request, model: str = "m") -> Call:
    found = provider_of(provider)
    operation = request.WhichOneof("operation") or ""
    return found.dialect_for(model, operation).call(request, model, found)


def texts(call: Call) -> list[tuple[str, str]]:
    return [(name, value) for name, value in call.form if isinstance(value, str)]


def answered(
    provider: str,
    request: generation_pb2.Request,
    data: bytes,
    headers: dict[str, str],
    size: int = 1 << 20,
) -> list[event_pb2.Event]:
    found = provider_of(provider)
    operation = request.WhichOneof("operation") or ""
    decoder = found.dialect_for("m", operation).decoder(request, headers)
    events: list[event_pb2.Event] = []
    for at in range(0, len(data), size):
        events += decoder.feed(data[at : at + size])
    return [*events, *decoder.close()]


def stream(*said: object) -> bytes:
    return b"".join(b"data: " + json.dumps(one).encode() + b"\n\n" for one in said)


# What is asked.


@pytest.mark.parametrize(
    ("provider", "fields", "sent"),
    [
        ("openai", {}, [("response_format", "json")]),
        ("openai", {"response_format": "text"}, [("response_format", "json")]),
        ("openai", {"response_format": "srt"}, [("response_format", "verbose_json")]),
        ("openai", {"response_format": "vtt"}, [("response_format", "verbose_json")]),
        (
            "openai",
            {"response_format": "diarized_json", "chunking_strategy": b'{"type":"x","n":0.5}'},
            [
                ("response_format", "diarized_json"),
                ("chunking_strategy[type]", "x"),
                ("chunking_strategy[n]", "0.5"),
            ],
        ),
        (
            "openai",
            {"stream": True, "include": ["logprobs"], "extra": {"keywords": b'["a","b"]'}},
            [
                ("response_format", "json"),
                ("include[]", "logprobs"),
                ("stream", "true"),
                ("keywords[]", "a"),
                ("keywords[]", "b"),
            ],
        ),
        # Whoever cannot stream is asked for the whole.
        ("groq", {"stream": True}, [("response_format", "json")]),
        (
            "groq",
            {"language": "en", "prompt": "p", "temperature": 0.0},
            [
                ("response_format", "json"),
                ("language", "en"),
                ("prompt", "p"),
                ("temperature", "0.0"),
            ],
        ),
        ("mistral", {"prompt": "p"}, []),
        ("mistral", {"response_format": "srt"}, [("timestamp_granularities[]", "segment")]),
        (
            "mistral",
            {"response_format": "verbose_json", "timestamp_granularities": ["word"]},
            [("timestamp_granularities[]", "word")],
        ),
        ("cohere", {"language": "fr"}, [("language", "fr")]),
        ("openrouter", {}, [("response_format", "json")]),
    ],
)
def test_a_form_has_what_the_provider_understands(
    provider: str, fields: dict[str, Any], sent: list[tuple[str, str]]
) -> None:
    call = call_of(provider, heard(**fields))
    assert texts(call) == [("model", "m"), *sent]
    assert call.form[-1] == ("file", FILE)
    assert not call.body
    assert call.dropped == (("prompt",) if "prompt" in fields and provider == "mistral" else ())


@pytest.mark.parametrize(
    ("provider", "fields", "param", "reason"),
    [
        ("mistral", {"translate": True}, "model", "unsupported_operation"),
        ("mistral", {"response_format": "diarized_json"}, "response_format", None),
        ("groq", {"response_format": "diarized_json"}, "response_format", None),
        ("cohere", {"language": "en", "response_format": "srt"}, "response_format", None),
        ("openrouter", {"response_format": "verbose_json"}, "response_format", None),
        ("cohere", {}, "language", "invalid_request"),
    ],
)
def test_what_a_provider_does_not_do_is_refused_before_the_call(
    provider: str, fields: dict[str, Any], param: str, reason: str | None
) -> None:
    with pytest.raises(InferenceError) as caught:
        call_of(provider, heard(**fields))
    assert caught.value.param == param
    assert caught.value.reason == (reason or "unsupported_parameter")


@pytest.mark.parametrize("provider", ["anthropic", "deepseek", "cerebras", "perplexity"])
@pytest.mark.parametrize("operation", [SPEAK, TRANSCRIBE])
def test_who_has_no_audio_says_so(provider: str, operation: str) -> None:
    with pytest.raises(InferenceError) as caught:
        provider_of(provider).dialect_for("m", operation)
    assert caught.value.reason == "unsupported_operation"


def test_calls_go_where_the_provider_has_them() -> None:
    assert call_of("openai", heard(translate=True)).path == "/audio/translations"
    assert call_of("cohere", heard(language="en")).path == "/v2/audio/transcriptions"
    fireworks = call_of("fireworks", heard(), "whisper-v3-turbo")
    assert fireworks.base_url == "https://audio-turbo.us-virginia-1.direct.fireworks.ai/v1"
    assert not call_of("fireworks", heard(), "another").base_url


# What is answered.


def test_a_transcript_is_read_with_its_times_and_its_usage() -> None:
    body = {
        "text": "Hi",
        "language": "en",
        "duration": "1.5",
        "segments": [{"id": 3, "start": 0, "end": "1.5", "text": "Hi", "speaker_id": 7, "seek": 0}],
        "words": [{"word": "Hi", "start": 0, "end": 1}],
        "x_groq": {"id": "r"},
    }
    headers = {"x-request-id": "up", "x-ratelimit-remaining-audio-seconds": "9"}
    started, whole, completed = answered("groq", heard(), json.dumps(body).encode(), headers, 7)
    assert started.started.upstream_request_id == "up"
    assert started.started.rate_limits["x-ratelimit-remaining-audio-seconds"] == "9"
    transcript = whole.transcript
    assert (transcript.text, transcript.language, transcript.duration_s) == ("Hi", "en", 1.5)
    (segment,) = transcript.segments
    assert (segment.id, segment.end_s, segment.speaker) == ("3", 1.5, "7")
    assert dict(segment.extra) == {"seek": b"0"}
    assert transcript.words[0].end_s == 1
    assert completed.completed.usage.input_audio_s == 1.5


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "upstream_incomplete"),
        (b"{", "upstream_error"),
        (b"[]", "upstream_error"),
        (b'{"error":{"message":"overloaded","code":503}}', "upstream_error"),
        (b'{"text":1}', "upstream_error"),
        (b'{"text":"a","segments":[{"start":"x"}]}', "upstream_error"),
    ],
)
def test_an_answer_that_is_no_transcript_is_an_error(body: bytes, reason: str) -> None:
    with pytest.raises(InferenceError) as caught:
        answered("openai", heard(), body, {})
    assert caught.value.reason == reason


MISTRAL = stream(
    {"type": "transcription.language", "audio_language": "fr"},
    {"type": "transcription.text.delta", "text": "Sal"},
    {"type": "transcription.segment", "text": "Salut", "start": 0.0, "end": 2.0},
    {"type": "transcription.text.delta", "text": "ut"},
    {
        "type": "transcription.done",
        "model": "voxtral-up",
        "text": "",
        "usage": {"prompt_audio_seconds": 3, "prompt_tokens": 4, "completion_tokens": 2},
    },
)


@pytest.mark.parametrize("size", [1, 7, 4096])
def test_mistrals_events_mean_what_openais_do(size: int) -> None:
    events = answered("mistral", heard(stream=True), MISTRAL, EVENTS, size)
    kinds = [event.WhichOneof("kind") for event in events]
    assert kinds == ["started", "text", "transcript_segment", "text", "transcript", "completed"]
    whole = events[-2].transcript
    assert (whole.text, whole.language, whole.segments[0].end_s) == ("Salut", "fr", 2.0)
    completed = events[-1].completed
    assert completed.model == "voxtral-up"
    assert completed.usage.input_audio_s == 3
    assert (completed.usage.input_tokens, completed.usage.output_tokens) == (4, 2)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (stream({"type": "transcript.text.delta", "delta": "Hi"}), "upstream_incomplete"),
        (stream({"error": {"message": "no", "status_code": 429}}), "upstream_rate_limit"),
        (stream({"type": "error", "error": {"message": "no"}}), "upstream_error"),
        (b"data: {\n\n", "upstream_error"),
        (b"data: 1\n\n", "upstream_error"),
        (stream({"type": "transcript.text.delta"}), "upstream_error"),
    ],
)
def test_a_stream_that_breaks_is_an_error(body: bytes, reason: str) -> None:
    with pytest.raises(InferenceError) as caught:
        answered("openai", heard(stream=True), body, EVENTS)
    assert caught.value.reason == reason


# Speech.


def test_speech_is_asked_for_in_the_providers_words() -> None:
    asked = spoken(voice=b'{"id":"v_1"}', response_format="pcm", speed=1.5, extra={"lang": b'"en"'})
    call = call_of("together_ai", asked)
    assert json.loads(call.body) == {
        "model": "m",
        "input": "Hello",
        "voice": {"id": "v_1"},
        "response_format": "raw",
        "lang": "en",
    }
    assert call.dropped == ("speed",)
    with pytest.raises(InferenceError) as caught:
        call_of("groq", spoken(response_format="opus"))
    assert caught.value.param == "response_format"


@pytest.mark.parametrize(
    ("provider", "model", "sent"),
    [("openai", "gpt-4o-mini-tts", True), ("openai", "tts-1-hd", False), ("groq", "m", False)],
)
def test_events_are_asked_for_where_they_tell_the_usage(
    provider: str, model: str, sent: bool
) -> None:
    body = json.loads(call_of(provider, spoken(stream_format="sse"), model).body)
    assert ("stream_format" in body) == sent


def test_sound_comes_as_it_is_with_its_type() -> None:
    events = answered("groq", spoken(), b"abcdef", {"content-type": "audio/wav; x=1"}, 4)
    assert [event.WhichOneof("kind") for event in events] == [
        "started",
        "audio",
        "audio",
        "completed",
    ]
    assert (events[1].audio.data, events[1].audio.media_type) == (b"abcd", "audio/wav")
    assert (events[2].audio.data, events[2].audio.media_type) == (b"ef", "")
    usage = events[-1].completed.usage
    assert (usage.characters, usage.estimated) == (5, True)
    plain = {"content-type": "application/octet-stream"}
    events = answered("groq", spoken(response_format="flac"), b"a", plain)
    assert events[1].audio.media_type == "audio/flac"


def test_sound_in_json_and_in_events_is_taken_out() -> None:
    body = json.dumps({"audio_data": b64encode(b"sound").decode()}).encode()
    events = answered("mistral", spoken(), body, {"content-type": "application/json"})
    assert events[1].audio.data == b"sound"
    assert events[1].audio.media_type == "audio/mpeg"
    body = stream(
        {"type": "speech.audio.delta", "audio": b64encode(b"so").decode()},
        {"type": "speech.audio.delta", "audio": b64encode(b"und").decode()},
        {"type": "speech.audio.done", "usage": {"input_tokens": 5, "output_tokens": 40}},
    )
    events = answered("openai", spoken(), body, EVENTS, 9)
    assert b"".join(event.audio.data for event in events) == b"sound"
    usage = events[-1].completed.usage
    assert (usage.input_tokens, usage.output_audio_tokens, usage.characters) == (5, 40, 0)


@pytest.mark.parametrize(
    ("body", "headers", "reason"),
    [
        (b"", {"content-type": "audio/mpeg"}, "upstream_incomplete"),
        (b'{"error":{"message":"no"}}', {"content-type": "application/json"}, "upstream_error"),
        (b'{"audio_data":"a"}', {"content-type": "application/json"}, "upstream_error"),
        (stream({"type": "speech.audio.delta", "audio": "YQ=="}), EVENTS, "upstream_incomplete"),
        (stream({"type": "speech.audio.delta", "audio": "a"}), EVENTS, "upstream_error"),
        (stream({"type": "speech.audio.delta"}), EVENTS, "upstream_error"),
        (stream([1]), EVENTS, "upstream_error"),
        (stream({"type": "error", "error": {"message": "no"}}), EVENTS, "upstream_error"),
    ],
)
def test_what_is_no_sound_is_an_error(body: bytes, headers: dict[str, str], reason: str) -> None:
    with pytest.raises(InferenceError) as caught:
        answered("openai", spoken(), body, headers)
    assert caught.value.reason == reason
