"""Speech and transcription as Gemini's conversations: what is sent, what its answers mean."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from broker.errors import InferenceError
from broker.v1 import event_pb2, generation_pb2, operations_pb2
from workers.provider import Detached
from workers.registry import provider as provider_of

FILE = operations_pb2.Attachment(filename="a.flac", data=b"not known by its bytes")


def heard(**fields: Any) -> generation_pb2.Request:
    asked = operations_pb2.TranscribeRequest(**{"model": "m", "file": FILE, **fields})
    return generation_pb2.Request(transcribe=asked)


def spoken(**fields: Any) -> generation_pb2.Request:
    asked = operations_pb2.SpeakRequest(model="m", input="Hello", **{"voice": b"v", **fields})
    return generation_pb2.Request(speak=asked)


def sent(request: generation_pb2.Request, provider: str = "gemini") -> tuple[str, Any]:
    found = provider_of(provider)
    operation = request.WhichOneof("operation") or ""
    call = found.dialect_for("m", operation).call(request, "m", found)
    return call.path, json.loads(call.body)


def answered(request: generation_pb2.Request, *chunks: Any) -> list[event_pb2.Event]:
    found = provider_of("gemini")
    operation = request.WhichOneof("operation") or ""
    decoder = found.dialect_for("m", operation).decoder(request, {})
    events: list[event_pb2.Event] = []
    if request.transcribe.stream:
        for chunk in chunks:
            events += decoder.feed(b"data: " + json.dumps(chunk).encode() + b"\n\n")
    else:
        events += decoder.feed(json.dumps(chunks[0]).encode())
    return [*events, *decoder.close()]


def said(*parts: Any, finish: str = "STOP") -> Any:
    content = {"role": "model", "parts": list(parts)}
    candidate: dict[str, Any] = {"content": content}
    if finish:
        candidate["finishReason"] = finish
    usage = {"promptTokenCount": 5, "candidatesTokenCount": 3}
    return {"candidates": [candidate], "usageMetadata": usage, "responseId": "r"}


def sound(data: bytes) -> Any:
    kind = "audio/L16;codec=pcm;rate=24000"
    return {"inlineData": {"mimeType": kind, "data": base64.b64encode(data).decode()}}


def test_a_text_is_asked_for_aloud() -> None:
    path, body = sent(spoken(voice=b"nova", instructions="Calmly.", response_format="pcm"))
    assert path.endswith("/m:generateContent")
    assert body["contents"][0]["parts"] == [{"text": "Calmly.\n\nHello"}]
    config = body["generationConfig"]
    assert config["responseModalities"] == ["AUDIO"]
    voice = config["speechConfig"]["voiceConfig"]["prebuiltVoiceConfig"]["voiceName"]
    assert voice == "Leda"


@pytest.mark.parametrize("wanted", ["mp3", "opus", "aac", "flac"])
def test_sound_that_would_have_to_be_compressed_is_refused(wanted: str) -> None:
    with pytest.raises(InferenceError) as caught:
        sent(spoken(response_format=wanted))
    assert caught.value.param == "response_format"


@pytest.mark.parametrize(
    ("wanted", "head", "media_type"), [(None, 44, "audio/wav"), ("pcm", 0, "audio/pcm")]
)
def test_samples_are_wrapped_as_they_are_asked_for(
    wanted: str | None, head: int, media_type: str
) -> None:
    fields = {"response_format": wanted} if wanted else {}
    events = answered(spoken(**fields), said({"text": "Sure!"}, sound(b"abcd")))
    assert [event.WhichOneof("kind") for event in events] == ["started", "audio", "completed"]
    audio = events[1].audio
    assert (audio.data[head:], audio.media_type, audio.id) == (b"abcd", media_type, "")
    assert len(audio.data) == head + 4


@pytest.mark.parametrize(
    ("answer", "reason", "param"),
    [
        (said({"text": "I cannot"}), "upstream_error", None),
        (said(finish="SAFETY"), "content_policy_violation", "input"),
    ],
)
def test_silence_is_an_error(answer: Any, reason: str, param: str | None) -> None:
    with pytest.raises(InferenceError) as caught:
        answered(spoken(), answer)
    assert (caught.value.reason, caught.value.param) == (reason, param)


def test_a_recording_is_a_part_of_the_conversation() -> None:
    path, body = sent(heard(language="fr", prompt="Ünal", translate=True, temperature=0.0))
    assert path.endswith(":generateContent")
    recording, task = body["contents"][0]["parts"]
    assert recording["inlineData"]["mimeType"] == "audio/flac"
    assert base64.b64decode(recording["inlineData"]["data"]) == FILE.data
    assert all(word in task["text"] for word in ("English", "fr", "Ünal"))
    assert body["generationConfig"]["temperature"] == 0.0
    path, _ = sent(heard(stream=True), "vertex_ai")
    assert ":streamGenerateContent" in path


def test_a_recording_that_lies_at_the_edge_is_asked_for() -> None:
    reference = operations_pb2.AttachmentReference(number=0, size=3)
    with pytest.raises(Detached):
        sent(heard(file=operations_pb2.Attachment(reference=reference)))


@pytest.mark.parametrize("wanted", ["srt", "vtt", "verbose_json", "diarized_json"])
def test_times_are_not_to_be_had(wanted: str) -> None:
    with pytest.raises(InferenceError) as caught:
        sent(heard(response_format=wanted))
    assert caught.value.param == "response_format"


def test_what_was_heard_is_the_text_without_the_thoughts() -> None:
    thought = {"text": "It is French.", "thought": True}
    started, whole, completed = answered(heard(), said(thought, {"text": "Salut"}))
    assert started.HasField("started")
    assert whole.transcript.text == "Salut"
    assert completed.completed.usage.output_tokens == 3
    chunks = (said({"text": "Sal"}, finish=""), said({"text": "ut"}))
    events = answered(heard(stream=True), *chunks)
    kinds = [event.WhichOneof("kind") for event in events]
    assert kinds == ["started", "text", "text", "transcript", "completed"]
    assert events[3].transcript.text == "Salut"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (said({"text": "Sal"}, finish="MAX_TOKENS"), "upstream_incomplete"),
        (said(finish="SAFETY"), "content_policy_violation"),
    ],
)
def test_half_of_a_recording_is_an_error(answer: Any, reason: str) -> None:
    with pytest.raises(InferenceError) as caught:
        answered(heard(), answer)
    assert caught.value.reason == reason
