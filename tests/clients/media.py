"""The formats of all that is not chat: vectors, judgements, images and sound."""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable
from typing import Any

from tests.clients.asked import Call, Json, Said, events, said
from tests.clients.formats import CREATED
from tests.workers.responses_answers import PIXEL

MP3 = b"\xff\xfb\x90\x00" * 64


def embeddings(call: Call) -> Said:
    """OpenAI's, as everybody has it; a vector tells the length of its input."""
    body = call.body
    given = body["input"]
    inputs = [given] if isinstance(given, str) or isinstance(given[0], int) else given
    data = []
    for index, text in enumerate(inputs):
        vector: Any = [float(len(text)), 0.5, -2.0]
        if body.get("encoding_format") == "base64":
            vector = base64.b64encode(struct.pack("<3f", *vector)).decode()
        data.append({"object": "embedding", "index": index, "embedding": vector})
    usage = {"prompt_tokens": 4, "total_tokens": 4}
    return said({"object": "list", "data": data, "model": body["model"], "usage": usage})


def gemini_embeddings(call: Call) -> Said:
    texts = [one["content"]["parts"][0]["text"] for one in call.body["requests"]]
    return said({"embeddings": [{"values": [float(len(text)), 0.5, -2.0]} for text in texts]})


def cohere_embeddings(call: Call) -> Said:
    vectors = [[float(len(text)), 0.5, -2.0] for text in call.body["texts"]]
    meta = {"billed_units": {"input_tokens": 4}}
    return said({"id": "e", "embeddings": {"float": vectors}, "meta": meta})


def moderation(call: Call) -> Said:
    given = call.body["input"]
    count = len(given) if isinstance(given, list) and isinstance(given[0], str) else 1
    if call.provider == "mistral":
        result: Json = {
            "categories": {"violence_and_threats": True, "pii": False},
            "category_scores": {"violence_and_threats": 0.9, "pii": 0.1},
        }
    else:
        result = {
            "flagged": True,
            "categories": {"violence": True, "sexual": False},
            "category_scores": {"violence": 0.9, "sexual": 0.1},
            "category_applied_input_types": {"violence": ["text"], "sexual": []},
        }
    return said({"id": "modr-1", "model": call.body["model"], "results": [result] * count})


def ranking(call: Call) -> Said:
    places = [{"index": 1, "relevance_score": 0.9}, {"index": 0, "relevance_score": 0.25}]
    if call.provider == "cohere":
        return said({"id": "r", "results": places, "meta": {"billed_units": {"search_units": 1}}})
    body = {"id": "r", "model": call.body["model"], "results": places}
    return said(body | {"usage": {"total_tokens": 30}})


def image(call: Call) -> Said:
    """OpenAI's; generations and edits differ in what their events are called."""
    body = call.body
    usage = {"input_tokens": 5, "output_tokens": 7, "total_tokens": 12}
    if str(body.get("stream", "")).lower() != "true":
        wants_url = body.get("response_format") == "url"
        one = {"url": "https://images.example/1.png"} if wants_url else {"b64_json": PIXEL}
        data = [one] * int(body.get("n") or 1)
        return said({"created": CREATED, "data": data, "usage": usage})
    kind = "image_edit" if call.path.endswith("edits") else "image_generation"
    common = {"b64_json": PIXEL, "created_at": CREATED, "size": "1024x1024", "quality": "low"}
    common |= {"background": "opaque", "output_format": "png"}
    partials = [
        {"type": f"{kind}.partial_image", "partial_image_index": at, **common}
        for at in range(int(body.get("partial_images") or 0))
    ]
    return events([*partials, {"type": f"{kind}.completed", "usage": usage, **common}], named=True)


def _mistral_transcript(fields: Json, text: str) -> Said:
    usage = {"prompt_audio_seconds": 2, "prompt_tokens": 5, "completion_tokens": 4}
    whole: Json = {"model": fields["model"], "text": text, "language": "en", "usage": usage}
    if fields.get("stream") == "true":
        pieces = [{"type": "transcription.text.delta", "text": one} for one in (text[:6], text[6:])]
        first = {"type": "transcription.language", "audio_language": "en"}
        return events([first, *pieces, {"type": "transcription.done", **whole}])
    segment = {"type": "transcription_segment", "start": 0.0, "end": 1.5, "text": text}
    timed = "timestamp_granularities[]" in fields
    return said({**whole, "segments": [segment] if timed else []})


_OTHERS: dict[str, Callable[[Json, str], Said]] = {
    "mistral": _mistral_transcript,
    "cohere": lambda _, text: said({"text": text}),
}


def transcript(call: Call) -> Said:
    """OpenAI's in each of its forms."""
    fields = call.body
    text = f"{call.provider} heard {len(fields['file'])} bytes"
    if call.provider in _OTHERS:
        return _OTHERS[call.provider](fields, text)
    usage = {"type": "tokens", "input_tokens": 5, "output_tokens": 4, "total_tokens": 9}
    if fields.get("stream") == "true":
        deltas = [
            {"type": "transcript.text.delta", "delta": piece} for piece in (text[:6], text[6:])
        ]
        return events([*deltas, {"type": "transcript.text.done", "text": text, "usage": usage}])
    form = fields.get("response_format", "json")
    if form in ("text", "srt", "vtt"):
        return Said(_WRITTEN[form].format(text=text).encode(), "text/plain")
    if form != "verbose_json":
        return said({"text": text, "usage": usage})
    segment: Json = {"id": 0, "seek": 0, "start": 0.0, "end": 1.5, "text": text, "tokens": [1]}
    segment |= {"temperature": 0.0, "avg_logprob": -0.1, "compression_ratio": 1.0}
    segment |= {"no_speech_prob": 0.0}
    body = {"task": "transcribe", "language": "english", "duration": 1.5, "text": text}
    return said(body | {"segments": [segment], "usage": {"type": "duration", "seconds": 2}})


_TIMES = "00:00:00{dot}000 --> 00:00:01{dot}500\n{{text}}\n\n"
_WRITTEN = {
    "text": "{text}\n",
    "srt": "1\n" + _TIMES.format(dot=","),
    "vtt": "WEBVTT\n\n" + _TIMES.format(dot="."),
}


def speech(call: Call) -> Said:
    if call.provider == "mistral":
        return said({"audio_data": base64.b64encode(MP3).decode()})
    if call.body.get("stream_format") != "sse":
        return Said(MP3, "audio/mpeg")
    half = len(MP3) // 2
    found = [
        {"type": "speech.audio.delta", "audio": base64.b64encode(piece).decode()}
        for piece in (MP3[:half], MP3[half:])
    ]
    usage = {"input_tokens": 5, "output_tokens": 7, "total_tokens": 12}
    return events([*found, {"type": "speech.audio.done", "usage": usage}])
