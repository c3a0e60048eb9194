"""What Gemini says, as a client of the edge sees it and sends it back."""

from __future__ import annotations

import json
from typing import Any

import pytest

from broker.translate.chat_answer import ChatAnswer, ChatStream
from broker.translate.chat_request import parse_chat
from broker.v1 import event_pb2
from tests.workers.gemini_hub import GEMINI, NEW, VERTEX, part

PARTS = [
    {"text": "hm", "thought": True},
    {"text": "Let me "},
    {"text": "see.", "thoughtSignature": "dGV4dA=="},
    {"functionCall": {"name": "f", "args": {"a": 1}}, "thoughtSignature": "Y2FsbA=="},
    {"functionCall": {"name": "g", "args": {}}},
    {"text": "", "thoughtSignature": "ZW1wdHk="},
]
TOOLS = [{"type": "function", "function": {"name": name}} for name in "fg"]
ASKED: dict[str, Any] = {
    "model": "m",
    "messages": [{"role": "user", "content": "?"}],
    "tools": TOOLS,
}


def events(asked: dict[str, Any]) -> list[event_pb2.Event]:
    request = parse_chat(json.dumps(asked).encode())
    decoder = GEMINI.dialect.decoder(request, {"content-type": "application/json"})
    whole = json.dumps(part(*PARTS, finishReason="STOP")).encode()
    return [*decoder.feed(whole), *decoder.close()]


def unary() -> dict[str, Any]:
    answer = ChatAnswer("id", 1, parse_chat(json.dumps(ASKED).encode()))
    answer.feed(events(ASKED))
    message: dict[str, Any] = json.loads(answer.render())["choices"][0]["message"]
    return message


def streamed() -> dict[str, Any]:
    """The message that a client puts together from the deltas."""
    asked = ASKED | {"stream": True}
    stream = ChatStream.of("id", 1, parse_chat(json.dumps(asked).encode()))
    message: dict[str, Any] = {"role": "assistant", "content": "", "tool_calls": []}
    for line in stream.feed(events(asked)).split(b"\n\n"):
        if not line:
            continue
        delta = json.loads(line.removeprefix(b"data: "))["choices"][0]["delta"]
        message["content"] += delta.get("content") or ""
        for call in delta.get("tool_calls", ()):
            if "id" in call:
                message["tool_calls"].append(call)
            else:
                owner = message["tool_calls"][call["index"]]["function"]
                owner["arguments"] += call["function"]["arguments"]
        if "reasoning_details" in delta:
            message["reasoning_details"] = delta["reasoning_details"]
    return message


@pytest.mark.parametrize("answer", [unary, streamed])
def test_every_signature_finds_back_to_its_part(answer: Any) -> None:
    message = answer()
    results = [
        {"role": "tool", "tool_call_id": call["id"], "content": "1"}
        for call in message["tool_calls"]
    ]
    again = ASKED | {"messages": [*ASKED["messages"], message, *results]}
    request = parse_chat(json.dumps(again).encode())
    first, second = message["tool_calls"]
    assert json.loads(GEMINI.dialect.call(request, NEW, GEMINI).body)["contents"][1:] == [
        {
            "role": "model",
            "parts": [
                {"text": "Let me "},
                {"text": "see.", "thoughtSignature": "dGV4dA=="},
                {
                    "functionCall": {"name": "f", "args": {"a": 1}, "id": first["id"]},
                    "thoughtSignature": "Y2FsbA==",
                },
                {"functionCall": {"name": "g", "args": {}, "id": second["id"]}},
                {"text": "", "thoughtSignature": "ZW1wdHk="},
            ],
        },
        {
            "role": "user",
            "parts": [
                {
                    "functionResponse": {
                        "name": call["function"]["name"],
                        "response": {"output": "1"},
                        "id": call["id"],
                    }
                }
                for call in (first, second)
            ],
        },
    ]
    # Another home of the same model refuses them: there they give way.
    elsewhere = VERTEX.dialect.call(request, NEW, VERTEX).body
    assert b"Y2FsbA==" not in elsewhere
    assert b"dGV4dA==" not in elsewhere
