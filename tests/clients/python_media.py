"""What the official OpenAI library for Python does with vectors, pictures, sound and judgements."""

from __future__ import annotations

import base64
import json
import warnings
from typing import Any

from openai import AsyncOpenAI

from tests.clients.media import MP3
from tests.workers.responses_answers import PIXEL

SOUND = ("sound.wav", b"RIFF" + bytes(70_000), "audio/wav")
HEARD = f"heard {len(SOUND[1])} bytes"


async def embeddings(sdk: AsyncOpenAI, model: str) -> None:
    for encoding in ({}, {"encoding_format": "float"}):
        told = await sdk.embeddings.create(model=model, input=["a", "two"], **encoding)  # type: ignore[arg-type]
        assert [row.embedding for row in told.data] == [[1.0, 0.5, -2.0], [3.0, 0.5, -2.0]]


async def images(sdk: AsyncOpenAI, model: str) -> None:
    told = await sdk.images.generate(model=model, prompt="A cat.", size="1024x1024")
    assert [one.b64_json for one in told.data or ()] == [PIXEL]
    assert told.created > 1_700_000_000


async def images_edited(sdk: AsyncOpenAI, model: str) -> None:
    image = ("cat.png", base64.b64decode(PIXEL), "image/png")
    told = await sdk.images.edit(model=model, prompt="A hat on it.", image=image)
    assert [one.b64_json for one in told.data or ()] == [PIXEL]


async def images_streamed(sdk: AsyncOpenAI, model: str) -> None:
    stream = await sdk.images.generate(model=model, prompt="A cat.", stream=True, partial_images=2)
    events = [event async for event in stream]
    assert events[-1].type == "image_generation.completed"
    assert events[-1].b64_json == PIXEL
    partial = [event.type for event in events[:-1]]
    assert partial == ["image_generation.partial_image"] * (2 if "openai/" in model else 0)


async def speech(sdk: AsyncOpenAI, model: str) -> None:
    async with sdk.audio.speech.with_streaming_response.create(
        model=model, input="Hello", voice="alloy"
    ) as told:
        assert b"".join([piece async for piece in told.iter_bytes()]) == MP3
        assert told.headers["content-type"] == "audio/mpeg"


async def speech_as_events(sdk: AsyncOpenAI, model: str) -> None:
    told = await sdk.audio.speech.create(
        model=model, input="Hello", voice="alloy", stream_format="sse"
    )
    events = [json.loads(line[6:]) for line in told.text.splitlines() if line.startswith("data:")]
    assert b"".join(base64.b64decode(event["audio"]) for event in events[:-1]) == MP3
    assert events[-1]["type"] == "speech.audio.done"


async def transcriptions(sdk: AsyncOpenAI, model: str) -> None:
    told = await sdk.audio.transcriptions.create(model=model, file=SOUND, language="en")
    assert told.text.endswith(HEARD)


async def transcriptions_streamed(sdk: AsyncOpenAI, model: str) -> None:
    stream = await sdk.audio.transcriptions.create(model=model, file=SOUND, stream=True)
    events = [event async for event in stream]
    assert events[-1].type == "transcript.text.done"
    assert events[-1].text.endswith(HEARD)
    pieces = [event.delta for event in events if event.type == "transcript.text.delta"]
    assert "".join(pieces) == events[-1].text


async def transcriptions_subtitles(sdk: AsyncOpenAI, model: str) -> None:
    told = await sdk.audio.transcriptions.create(model=model, file=SOUND, response_format="srt")
    assert told.startswith("1\n00:00:00,000 --> 00:00:01,500\n")
    assert told.endswith(f"{HEARD}\n\n")


async def translations(sdk: AsyncOpenAI, model: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        told = await sdk.audio.translations.create(model=model, file=SOUND)
    assert told.text.endswith(HEARD)


async def moderations(sdk: AsyncOpenAI, model: str) -> None:
    told = await sdk.moderations.create(model=model, input=["harm", "more harm"])
    assert len(told.results) == 2
    assert all(result.flagged for result in told.results)


async def rerank(sdk: AsyncOpenAI, model: str) -> None:
    """The library has no method for it, but takes any path."""
    body = {"model": model, "query": "q", "documents": ["a", "b"]}
    told: Any = await sdk.post("/rerank", cast_to=object, body=body)
    assert [place["index"] for place in told["results"]] == [1, 0]
