"""Hub requests in few words, and what the anthropic provider makes of them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from broker.errors import InferenceError
from broker.v1 import content_pb2, generation_pb2
from broker.v1.content_pb2 import Message, Part
from workers import registry
from workers.provider import Call

C, G = content_pb2, generation_pb2
ANTHROPIC = registry.provider("anthropic")
PNG = b"\x89PNG\r\n\x1a\n"
PDF = b"%PDF-1.7"
CACHED: dict[str, Any] = {"cache_control": b'{"type":"ephemeral","ttl":"1h"}'}
OLD, BUDGET, ADAPTIVE = "claude-3-5-haiku-20241022", "claude-sonnet-4-5", "claude-opus-4-8"


def text(value: str, **more: Any) -> Part:
    return Part(text=C.Text(text=value), **more)


def user(*parts: Part | str, **more: Any) -> Message:
    return Message(role=C.ROLE_USER, parts=_parts(parts), **more)


def system(*parts: Part | str) -> Message:
    return Message(role=C.ROLE_SYSTEM, parts=_parts(parts))


def assistant(*parts: Part | str) -> Message:
    return Message(role=C.ROLE_ASSISTANT, parts=_parts(parts))


def called(call_id: str, arguments: str = "{}", name: str = "f", **more: Any) -> Part:
    return Part(
        tool_call=C.ToolCall(call_id=call_id, name=name, arguments=arguments.encode(), **more)
    )


def result(call_id: str, *parts: Part | str, **more: Any) -> Message:
    answered = C.ToolResult(call_id=call_id, parts=_parts(parts), **more)
    return Message(role=C.ROLE_TOOL, parts=[Part(tool_result=answered)])


def thought(value: str, signature: str = "sig", issuer: str = "anthropic_messages") -> Part:
    blob = C.Blob(issuer=issuer, kind="signature", data=signature.encode())
    return Part(reasoning=C.Reasoning(text=value, blobs=[blob]))


def _parts(parts: tuple[Part | str, ...]) -> list[Part]:
    return [text(part) if isinstance(part, str) else part for part in parts]


def tool(name: str = "f", parameters: Any = None, **more: Any) -> G.Tool:
    schema = b"" if parameters is None else json.dumps(parameters).encode()
    return G.Tool(function=G.FunctionTool(name=name, parameters=schema, **more))


def request(*messages: Message, extra: dict[str, Any] | None = None, **fields: Any) -> G.Request:
    asked = G.GenerateRequest(messages=messages or [user("hi")], **fields)
    for name, value in (extra or {}).items():
        asked.extra[name] = json.dumps(value).encode()
    return G.Request(generate=asked)


def call(asked: G.Request, model: str = BUDGET) -> Call:
    return ANTHROPIC.dialect.call(asked, model, ANTHROPIC)


def body(asked: G.Request, model: str = BUDGET) -> Any:
    return json.loads(call(asked, model).body)


def dropped(asked: G.Request, model: str = BUDGET) -> set[str]:
    return set(call(asked, model).dropped)


def refusal(asked: G.Request, model: str = BUDGET) -> InferenceError:
    with pytest.raises(InferenceError) as caught:
        call(asked, model)
    return caught.value
