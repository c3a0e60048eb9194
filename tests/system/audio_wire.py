"""Providers of audio as stand-ins: what each answers, in its own format, and how a form is read."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

from tests.system.provider import Received, Said

# Provider -> where its API begins.
PROVIDERS = {
    "openai": "/v1",
    "groq": "/openai/v1",
    "mistral": "/v1",
    "together_ai": "/v1",
    "cohere": "",
    "gemini": "",
}
SOUND = bytes(range(256)) * 8000 + b"\r\n--boundary--\r\n"
DIGEST = hashlib.sha256(SOUND).hexdigest()
FILE = ("répétition.wav", SOUND, "audio/wav")
SPOKEN = b"ID3\x00\x01" + bytes(range(256)) * 2000


def verbose(task: str) -> dict[str, Any]:
    """As OpenAI and Groq answer it."""
    segments = [
        {"id": 0, "seek": 0, "start": 0.0, "end": 2.5, "text": " Hello there.", "tokens": [1, 2]},
        {"id": 1, "seek": 0, "start": 2.5, "end": 3661.042, "text": " a --> b\n\n", "tokens": []},
    ]
    words = [{"word": "Hello", "start": 0.0, "end": 0.4}]
    return {
        "task": task,
        "language": "english",
        "duration": 3661.042,
        "text": "Hello there. a --> b",
        "segments": segments,
        "words": words,
        "x_groq": {"id": "req_1"},
        "usage": {"type": "duration", "seconds": 3662},
    }


TOKENS = {
    "type": "tokens",
    "input_tokens": 14,
    "input_token_details": {"text_tokens": 4, "audio_tokens": 10},
    "output_tokens": 3,
    "total_tokens": 17,
}
LOGPROBS = [{"token": "Hi", "logprob": -0.5, "bytes": [72, 105]}]


def events(*said: dict[str, Any]) -> Said:
    body = b"".join(b"data: " + json.dumps(one).encode() + b"\n\n" for one in said)
    return Said(body=body, headers={"content-type": "text/event-stream; charset=utf-8"})


def openai_transcript(form: bytes) -> Said:
    if b'name="stream"\r\n\r\ntrue' in form:
        return events(
            {"type": "transcript.text.delta", "delta": "Hi", "logprobs": LOGPROBS},
            {"type": "transcript.text.delta", "delta": " there"},
            {"type": "transcript.text.done", "text": "Hi there", "usage": TOKENS},
        )
    if b"diarized_json" in form:
        segment = {
            "type": "transcript.text.segment",
            "id": "seg_7",
            "start": 0.5,
            "end": 1.5,
            "speaker": "agent",
            "text": "Hi",
        }
        return Said(body={"task": "transcribe", "duration": 2, "text": "Hi", "segments": [segment]})
    if b"verbose_json" in form:
        return Said(body=verbose("transcribe"))
    return Said(body={"text": "Hi there", "logprobs": LOGPROBS, "usage": TOKENS})


def mistral_transcript(form: bytes) -> Said:
    usage = {"prompt_audio_seconds": 3, "prompt_tokens": 4, "completion_tokens": 2}
    segment = {"type": "transcription_segment", "start": 0.0, "end": 3.0, "text": "Salut"}
    if b'name="stream"' in form:
        return events(
            {"type": "transcription.language", "audio_language": "fr"},
            {"type": "transcription.text.delta", "text": "Sal"},
            {"type": "transcription.text.delta", "text": "ut"},
            {"type": "transcription.done", "model": "voxtral-up", "text": "Salut", "usage": usage},
        )
    timed = b'name="timestamp_granularities[]"' in form
    body = {"model": "voxtral-up", "text": "Salut", "language": "fr", "usage": usage}
    return Said(body={**body, "segments": [segment] if timed else []})


def speech(call: Received) -> Said:
    if call.provider == "mistral":
        return Said(body={"audio_data": base64.b64encode(SPOKEN).decode()})
    if call.json.get("stream_format") == "sse":
        halves = (SPOKEN[:300_000], SPOKEN[300_000:])
        deltas = [
            {"type": "speech.audio.delta", "audio": base64.b64encode(half).decode()}
            for half in halves
        ]
        usage = {"input_tokens": 5, "output_tokens": 40, "total_tokens": 45}
        return events(*deltas, {"type": "speech.audio.done", "usage": usage})
    return Said(body=SPOKEN, headers={"content-type": "audio/mpeg"})


def gemini(call: Received) -> Said:
    """What is asked to speak says the text's bytes; what is asked to listen repeats the sound."""
    parts = call.json["contents"][0]["parts"]
    if "responseModalities" in call.json.get("generationConfig", {}):
        sound = base64.b64encode(parts[0]["text"].encode()).decode()
        kind = "audio/L16;codec=pcm;rate=24000"
        part: dict[str, Any] = {"inlineData": {"mimeType": kind, "data": sound}}
    else:
        heard = base64.b64decode(parts[0]["inlineData"]["data"])
        part = {"text": f"{len(heard)} {hashlib.sha256(heard).hexdigest()}"}
    details = [{"modality": "AUDIO", "tokenCount": 40}]
    usage = {"promptTokenCount": 45, "candidatesTokenCount": 3, "promptTokensDetails": details}
    candidate = {"content": {"role": "model", "parts": [part]}, "finishReason": "STOP"}
    return Said(body={"candidates": [candidate], "usageMetadata": usage, "responseId": "r"})


def answer(call: Received) -> Said:
    if call.provider == "gemini":
        return gemini(call)
    if call.path.endswith("/audio/speech"):
        return speech(call)
    if b'name="model"\r\n\r\nnone\r\n' in call.body:
        error = {"message": "no such model", "type": "invalid_request_error", "param": "model"}
        return Said(404, body={"error": {**error, "code": "model_not_found"}})
    if call.provider == "mistral":
        return mistral_transcript(call.body)
    if call.provider == "cohere":
        return Said(body={"text": "Hi there"})
    if call.path.endswith("/audio/translations"):
        return Said(body=verbose("translate"))
    return openai_transcript(call.body)


def form_of(call: Received) -> dict[str, str]:
    """The texts of a form, by name; the file by its disposition."""
    boundary = call.headers["content-type"].partition("boundary=")[2].encode()
    parts = call.body.split(b"\r\n--" + boundary)
    found = {}
    for part in [parts[0].removeprefix(b"--" + boundary), *parts[1:-1]]:
        head, _, content = part.partition(b"\r\n\r\n")
        name = head.split(b'name="')[1].split(b'"')[0].decode()
        found[name] = content.decode() if b"filename" not in head else head.decode()
    return found
