"""What a provider wants back on the next turn comes back through the Messages API."""

from __future__ import annotations

import json
from typing import Any

import pytest

from broker.translate.messages_api_answer import MessagesAnswer
from broker.translate.messages_api_request import parse_messages
from broker.v1 import event_pb2, generation_pb2
from tests.system.test_messages_recorded import (
    WHOLE,
    ask,
    decoded,
    message_of,
    rendered,
    streamed,
)
from tests.workers.conformance.recordings import Recording
from workers.registry import provider

# Of unknown servers it is not known whether they want anything back; Nova does not.
UNWANTED = ("openai_compatible-", "bedrock-documented-redacted")
SIGNED = [
    one
    for one in WHOLE
    if not one.id.startswith(UNWANTED)
    and any(event.HasField("blob") for event in decoded(one, ask(one)))
]
HELLO = {"role": "user", "content": "Hello!"}


def next_turn(content: list[Any], model: str, **fields: Any) -> generation_pb2.Request:
    """The request that goes on from an answer, with a result for each call in it."""
    calls = [block for block in content if block["type"] == "tool_use"]
    results = [
        {"type": "tool_result", "tool_use_id": block["id"], "content": "42"} for block in calls
    ]
    tools = [{"name": block["name"], "input_schema": {"type": "object"}} for block in calls]
    messages: list[Any] = [HELLO, {"role": "assistant", "content": content}]
    messages.append({"role": "user", "content": [*results, {"type": "text", "text": "And?"}]})
    thinking = {"type": "enabled", "budget_tokens": 2048}
    body: dict[str, Any] = {"model": model, "max_tokens": 9000, "messages": messages}
    if tools:
        body["tools"] = tools
    return parse_messages(json.dumps({**body, "thinking": thinking, **fields}).encode())


def test_there_are_such_answers_of_several_providers() -> None:
    assert {one.provider for one in SIGNED} >= {"anthropic", "bedrock", "gemini", "openrouter"}


@pytest.mark.parametrize("way", ["whole", "streamed"])
@pytest.mark.parametrize("recording", SIGNED, ids=lambda one: one.id)
def test_state_goes_back_to_who_gave_it(recording: Recording, way: str) -> None:
    request = ask(recording)
    events = decoded(recording, request)
    whole = way == "whole"
    message = rendered(events, request) if whole else message_of(streamed(events, request))
    known = provider(recording.provider)
    again = next_turn(message["content"], recording.model)
    sent = known.dialect_for(recording.model).call(again, recording.model, known).body
    shown = json.dumps(json.loads(sent))
    for event in events:
        if event.HasField("blob"):
            data = event.blob.blob.data.decode()
            inside = json.dumps(data)[1:-1]
            assert inside in shown or json.dumps(json.loads(data)) in shown


def test_encrypted_reasoning_goes_back_to_openai() -> None:
    thought = {
        "type": "reasoning",
        "id": "rs_1",
        "summary": [{"type": "summary_text", "text": "It may rain."}],
        "encrypted_content": "gAAAAABstate",
    }
    called = {
        "type": "function_call",
        "id": "fc_1",
        "call_id": "call_1",
        "name": "f",
        "arguments": "{}",
        "status": "completed",
    }
    usage = {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}
    answer = {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "status": "completed",
        "model": "gpt-5.1-2025-11-13",
        "output": [thought, called],
        "usage": usage,
    }
    request = next_turn([], "gpt-5.1")
    known = provider("openai").serving(request, "gpt-5.1")
    dialect = known.dialect_for("gpt-5.1")
    decoder = dialect.decoder(request, {})
    events: list[event_pb2.Event] = [*decoder.feed(json.dumps(answer).encode()), *decoder.close()]
    shown = MessagesAnswer("msg_1", 0, request)
    shown.feed(events)
    content = json.loads(shown.render())["content"]
    assert [block["type"] for block in content] == ["thinking", "tool_use"]
    assert content[0]["thinking"] == "It may rain."
    again = next_turn(content, "gpt-5.1")
    sent = json.loads(dialect.call(again, "gpt-5.1", known).body)["input"]
    [state] = [item for item in sent if item.get("type") == "reasoning"]
    assert state["encrypted_content"] == "gAAAAABstate"
    kinds = [item.get("type") for item in sent]
    assert kinds.index("reasoning") + 1 == kinds.index("function_call")
