"""Chat answers for tests: written as chunks, decoded as a worker does."""

from __future__ import annotations

import json
from typing import Any

import pytest

from broker.errors import InferenceError
from broker.v1 import event_pb2, generation_pb2
from workers import registry

DIALECT = registry.provider("openai").dialect


def request(*, stream: bool, n: int = 1) -> generation_pb2.Request:
    request = generation_pb2.Request()
    request.generate.stream = stream
    request.generate.n = n
    request.generate.messages.add().parts.add().text.text = "x" * 40
    return request


def decode(
    answer: bytes, *, stream: bool, n: int = 1, headers: dict[str, str] | None = None
) -> list[event_pb2.Event]:
    decoder = DIALECT.decoder(request(stream=stream, n=n), headers or {})
    return [*decoder.feed(answer), *decoder.close()]


def sse(*chunks: Any) -> bytes:
    """An event stream of chunks, which are objects or texts that go in as they are."""
    texts = [chunk if isinstance(chunk, str) else json.dumps(chunk) for chunk in chunks]
    return "".join(f"data: {text}\n\n" for text in texts).encode()


def delta(choice: int = 0, finish: str | None = None, **delta: Any) -> dict[str, Any]:
    return {
        "id": "chatcmpl-1",
        "model": "m",
        "created": 7,
        "choices": [{"index": choice, "delta": delta, "finish_reason": finish}],
    }


def stream(*chunks: Any, n: int = 1) -> list[event_pb2.Event]:
    return decode(sse(*chunks), stream=True, n=n)


def unary(message: dict[str, Any], **more: Any) -> list[event_pb2.Event]:
    choice = {"index": 0, "message": message, "finish_reason": "stop", **more.pop("choice", {})}
    body = {"id": "chatcmpl-1", "model": "m", "choices": [choice], **more}
    return decode(json.dumps(body).encode(), stream=False)


def fails(answer: bytes, *, stream: bool, n: int = 1) -> InferenceError:
    with pytest.raises(InferenceError) as caught:
        decode(answer, stream=stream, n=n)
    return caught.value


STOP = delta(finish="stop")
DONE = "[DONE]"
TOOLS_END: list[Any] = [delta(finish="tool_calls"), DONE]


def tool(
    index: int | None, call_id: str | None, name: str | None, arguments: Any
) -> dict[str, Any]:
    """A tool call entry; None leaves a field out."""
    function = {"name": name, "arguments": arguments}
    entry = {"index": index, "id": call_id}
    return {
        **{key: value for key, value in entry.items() if value is not None},
        "function": {key: value for key, value in function.items() if value is not None},
    }
