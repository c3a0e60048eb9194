"""What only the Messages API has does not reach servers that speak OpenAI's formats."""

from __future__ import annotations

import json
from typing import Any

import pytest

from broker.errors import InferenceError
from broker.translate.messages_api_request import parse_messages
from broker.v1 import generation_pb2
from workers.provider import Call
from workers.registry import provider

FOUND = {
    "type": "search_result",
    "source": "https://s.example",
    "title": "S",
    "content": [{"type": "text", "text": "found"}],
}


def ask(**fields: Any) -> generation_pb2.Request:
    messages = [{"role": "user", "content": "hi"}]
    body = {"model": "m", "max_tokens": 10, "messages": messages, **fields}
    return parse_messages(json.dumps(body).encode())


def call(request: generation_pb2.Request, name: str, model: str) -> tuple[Call, dict[str, Any]]:
    known = provider(name).serving(request, model)
    made = known.dialect_for(model).call(request, model, known)
    return made, json.loads(made.body)


@pytest.mark.parametrize(
    ("name", "model", "sent", "dropped"),
    [
        ("openai", "gpt-4o", None, ()),
        ("openai", "o3", None, ("thinking",)),
        ("openai", "gpt-5", None, ("thinking",)),
        ("openai", "gpt-5.1", "none", ()),
        ("openai", "gpt-6-sol", "none", ()),
        ("groq", "llama", None, ()),
        ("groq", "qwen/qwen3-32b", "none", ()),
        ("vllm", "m", None, ()),
    ],
)
def test_thinking_is_turned_off_where_it_can_be(
    name: str, model: str, sent: str | None, dropped: tuple[str, ...]
) -> None:
    made, body = call(ask(thinking={"type": "disabled"}), name, model)
    assert body.get("reasoning_effort") == sent
    assert made.dropped == dropped


@pytest.mark.parametrize(
    ("name", "model"), [("openai", "gpt-4o"), ("openai", "o3-pro"), ("mistral", "m")]
)
def test_own_fields_are_left_out_and_told(name: str, model: str) -> None:
    content = [
        {"type": "text", "text": "hi", "citations": None, "own": 1},
        {"type": "document", "source": {"type": "text", "data": "x", "media_type": "text/plain"}},
        FOUND,
    ]
    request = ask(
        messages=[{"role": "user", "content": content}],
        tools=[{"name": "f", "input_schema": {}, "defer_loading": True}],
        cache_control={"type": "ephemeral"},
        thinking={"type": "adaptive"},
        top_k=3,
    )
    del request.generate.messages[0].parts[1]
    made, body = call(request, name, model)
    assert {"cache_control", "top_k", "messages[].content[].own"} <= set(made.dropped)
    text = json.dumps(body)
    assert "S\\nhttps://s.example\\nfound" in text
    assert not any(word in text for word in ("defer_loading", "top_k", "own", "thinking"))


@pytest.mark.parametrize(
    ("name", "model", "thinking", "path"),
    [
        ("openai", "gpt-5.1", {"type": "adaptive"}, "/responses"),
        ("openai", "o3", {"type": "enabled", "budget_tokens": 2048}, "/responses"),
        ("azure", "gpt-5.1", {"type": "adaptive"}, "/responses"),
        ("openai", "gpt-5.1", {"type": "disabled"}, "/chat/completions"),
        ("openai", "gpt-5.1", {"type": "adaptive", "display": "omitted"}, "/chat/completions"),
        ("openai", "gpt-4o", {"type": "adaptive"}, "/chat/completions"),
        ("azure", "grok-4", {"type": "adaptive"}, "/chat/completions"),
        ("openrouter", "openai/gpt-5.2", {"type": "adaptive"}, "/chat/completions"),
    ],
)
def test_thoughts_are_asked_for_in_the_format_that_shows_them(
    name: str, model: str, thinking: dict[str, Any], path: str
) -> None:
    made, body = call(ask(thinking=thinking), name, model)
    assert made.path.partition("?")[0].endswith(path)
    if path == "/responses":
        assert body["reasoning"]["summary"] == "auto"
        assert body["include"] == ["reasoning.encrypted_content"]
        assert made.dropped == ()


def test_top_k_goes_where_it_is_known() -> None:
    made, body = call(ask(top_k=3), "together_ai", "m")
    assert body["top_k"] == 3
    assert not made.dropped


def test_a_tool_that_is_not_the_callers_own_is_refused() -> None:
    request = ask(tools=[{"type": "web_search_20250305", "name": "web_search"}])
    with pytest.raises(InferenceError) as caught:
        call(request, "openai", "gpt-4o")
    assert (caught.value.reason, caught.value.param) == ("unsupported_parameter", "tools[0].type")


def test_others_keep_their_unknown_fields() -> None:
    request = ask()
    request.generate.surface = generation_pb2.SURFACE_CHAT
    request.generate.extra["new"] = b"1"
    assert call(request, "openai", "gpt-4o")[1]["new"] == 1
