"""What the gemini and vertex_ai providers make of hub requests, and of answers."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest

from broker.errors import InferenceError
from broker.v1 import event_pb2, generation_pb2
from tests.workers.anthropic_hub import request
from workers import registry
from workers.provider import Call, Provider

GEMINI = registry.provider("gemini")
VERTEX = registry.provider("vertex_ai")
OLD, FLASH, PRO, NEW = "gemini-1.5-pro", "gemini-2.5-flash", "gemini-2.5-pro", "gemini-3-flash"


def call(asked: generation_pb2.Request, model: str = FLASH, at: Provider = GEMINI) -> Call:
    return at.dialect_for(model).call(asked, model, at)


def body(asked: generation_pb2.Request, model: str = FLASH, at: Provider = GEMINI) -> Any:
    return json.loads(call(asked, model, at).body)


def config(model: str = FLASH, at: Provider = GEMINI, **fields: Any) -> Any:
    """The generationConfig of a request with these fields."""
    return body(request(**fields), model, at).get("generationConfig", {})


def dropped(asked: generation_pb2.Request, model: str = FLASH, at: Provider = GEMINI) -> set[str]:
    return set(call(asked, model, at).dropped)


def refusal(
    asked: generation_pb2.Request, model: str = FLASH, at: Provider = GEMINI
) -> InferenceError:
    with pytest.raises(InferenceError) as caught:
        call(asked, model, at)
    return caught.value


def part(*parts: Any, **more: Any) -> dict[str, Any]:
    """A response with one candidate of these parts."""
    candidate = {"content": {"role": "model", "parts": list(parts)}, **more}
    return {"candidates": [candidate], "modelVersion": "gemini-x", "responseId": "r-1"}


def events(
    *chunks: Any, asked: generation_pb2.Request | None = None, at: Provider = GEMINI
) -> list[event_pb2.Event]:
    """The events of an answer that is streamed in these chunks."""
    asked = asked or request(stream=True)
    decoder = at.dialect.decoder(asked, {"content-type": "text/event-stream"})
    found: list[event_pb2.Event] = []
    for chunk in chunks:
        found += decoder.feed(b"data: " + json.dumps(chunk).encode() + b"\r\n\r\n")
    found += decoder.close()
    return found


def kinds(found: Iterable[event_pb2.Event]) -> list[str]:
    return [event.WhichOneof("kind") or "" for event in found]


def only(found: Iterable[event_pb2.Event], kind: str) -> list[Any]:
    return [getattr(event, kind) for event in found if event.HasField(kind)]  # type: ignore[arg-type]
