"""The official Anthropic library against the whole system, with several formats behind."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from anthropic import AsyncAnthropic

from broker.v1 import generation_pb2
from tests.system import rpc
from tests.system.messages_client import GPT, HELLO, OPUS, connect, post, said, streamed
from tests.system.messages_wire import (
    CONTENT,
    HISTORY,
    MARK,
    SSE,
    USAGE,
    answer,
    claude,
    claude_stream,
)
from tests.system.provider import FakeProvider, Said, fake_provider
from tests.system.shared import shared_stack
from tests.system.stack import Stack
from tests.workers.test_anthropic_on_bedrock import chunk as chunk_of

PROVIDERS = {"anthropic": "", "openai": "/v1", "gemini": "", "bedrock": ""}
WEATHER: Any = {
    "name": "get_weather",
    "description": "Of a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}


@pytest.fixture(scope="module")
async def fake() -> AsyncIterator[FakeProvider]:
    async with fake_provider(answer) as made:
        yield made


@pytest.fixture(scope="module")
async def stack(
    tmp_path_factory: pytest.TempPathFactory, fake: FakeProvider
) -> AsyncIterator[Stack]:
    providers = {
        name: {"base_url": fake.url(name) + path, "api_key": "k"}
        for name, path in PROVIDERS.items()
    }
    async with shared_stack(
        tmp_path_factory, providers=providers, serves=("sim", *PROVIDERS)
    ) as stack:
        yield stack


@pytest.fixture(autouse=True)
def script(fake: FakeProvider) -> Iterator[None]:
    fake.take()
    yield
    fake.script = answer


@pytest.fixture
async def sdk(stack: Stack) -> AsyncIterator[AsyncAnthropic]:
    async with connect(stack) as client:
        yield client


# --- Claude behind it: nothing is lost ---


@pytest.mark.parametrize("stream", [False, True])
async def test_what_claude_says_arrives_as_it_was_said(sdk: AsyncAnthropic, stream: bool) -> None:
    message = await said(sdk, stream=stream, model=OPUS)
    shown = message.to_dict()
    assert shown["content"] == CONTENT
    assert shown["usage"] == USAGE
    assert shown["stop_reason"] == "tool_use"
    assert shown["id"].startswith("msg_")
    assert shown["model"] == "claude-opus-4-5-20251101"


@pytest.mark.parametrize("stream", [False, True])
async def test_how_claude_stopped_arrives_as_it_was_said(
    fake: FakeProvider, sdk: AsyncAnthropic, stream: bool
) -> None:
    end: dict[str, Any] = {
        "stop_reason": "refusal",
        "stop_details": {"type": "refusal", "category": "bio", "explanation": "No."},
        "container": {"id": "container_1", "expires_at": "2026-11-22T00:00:00Z"},
    }
    if stream:
        fake.script = lambda _: Said(body=claude_stream(CONTENT[:1], **end), headers=SSE)
    else:
        fake.script = lambda _: Said(body=claude(CONTENT[:1], **end))
    message = await said(sdk, stream=stream, model=OPUS)
    assert json.loads(message.to_json()).items() >= end.items()
    assert message.to_dict()["content"] == CONTENT[:1]


def shape(steps: Any) -> list[tuple[Any, ...]]:
    """Which events in which order; pieces of one thing count once."""
    found: list[tuple[Any, ...]] = []
    for step in steps:
        kind = step.get("delta", step.get("content_block", {})).get("type")
        one = (step["type"], step.get("index"), kind)
        if one[0] != "content_block_delta" or found[-1] != one:
            found.append(one)
    return found


async def test_the_stream_of_claude_has_the_events_of_claudes_own(stack: Stack) -> None:
    own = [
        json.loads(line[6:]) for line in claude_stream(CONTENT).split(b"\n") if line[:4] == b"data"
    ]
    shown = await streamed(stack, {"model": OPUS})
    assert shape(event for _, event in shown) == shape(own)
    start = shown[0][1]["message"]
    assert start["usage"]["input_tokens"] == 12
    assert start["stop_reason"] is None


async def test_what_claude_is_asked_arrives_as_it_was_asked(
    stack: Stack, fake: FakeProvider
) -> None:
    asked: dict[str, Any] = {
        "model": "claude-opus-4-5",
        "max_tokens": 9000,
        "system": [{"type": "text", "text": "Be brief.", "cache_control": MARK}],
        "messages": HISTORY,
        "tools": [
            {**WEATHER, "cache_control": MARK, "defer_loading": True, "strict": False, "x": 1},
            {"type": "web_search_20250305", "name": "web_search", "max_uses": 3},
            {"type": "new_tool", "name": "new"},
        ],
        "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
        "stop_sequences": ["END"],
        "thinking": {"type": "enabled", "budget_tokens": 2048, "display": "summarized"},
        "output_config": {"effort": "low", "task_budget": {"type": "tokens", "total": 9}},
        "metadata": {"user_id": "someone@example.org"},
        "service_tier": "standard_only",
        "context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]},
        "cache_control": MARK,
        "new_field": {"a": 1},
    }
    body = {**asked, "model": "anthropic/claude-opus-4-5", "drop_params": False}
    answered = await post(stack, body, **{"anthropic-beta": "new-thing-2026-01-01"})
    assert answered.status_code == 200, answered.text
    [call] = fake.take()
    del asked["tools"][0]["strict"]  # false is what it is anyway
    assert call.json == asked
    assert (call.path, call.key) == ("/v1/messages", "k")
    assert call.headers["anthropic-version"] == "2023-06-01"
    assert "new-thing-2026-01-01" in call.headers["anthropic-beta"]


@pytest.mark.parametrize("stream", [False, True])
async def test_claude_on_bedrock_is_asked_and_answers_in_its_own_format(
    fake: FakeProvider, sdk: AsyncAnthropic, stream: bool
) -> None:
    lines = claude_stream(CONTENT).splitlines()
    framed = b"".join(chunk_of(line[6:]) for line in lines if line.startswith(b"data: "))
    by_amazon = {"content-type": "application/vnd.amazon.eventstream"}
    fake.script = lambda _: (
        Said(body=framed, headers=by_amazon) if stream else Said(body=claude(CONTENT))
    )
    model = "bedrock/us.anthropic.claude-opus-4-5-20251101-v1:0"
    shown = (await said(sdk, stream=stream, model=model, stop_sequences=["END"])).to_dict()
    assert (shown["content"], shown["usage"]) == (CONTENT, USAGE)
    [call] = fake.take()
    verb = "invoke-with-response-stream" if stream else "invoke"
    assert call.path == f"/model/us.anthropic.claude-opus-4-5-20251101-v1%3A0/{verb}"
    assert (call.json["anthropic_version"], call.json["stop_sequences"]) == (
        "bedrock-2023-05-31",
        ["END"],
    )
    assert call.json.keys().isdisjoint({"model", "stream"})


@pytest.mark.parametrize("model", [OPUS, GPT])
async def test_a_large_picture_arrives_whole(stack: Stack, fake: FakeProvider, model: str) -> None:
    data = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(6 << 20)).decode()
    source = {"type": "base64", "media_type": "image/png", "data": data}
    content = [{"type": "image", "source": source}, {"type": "text", "text": "what?"}]
    answered = await post(
        stack, {"model": model, "messages": [{"role": "user", "content": content}]}
    )
    assert answered.status_code == 200, answered.text
    [call] = fake.take()
    picture = call.json["messages"][0]["content"][0]
    if model == GPT:
        assert picture["image_url"]["url"] == f"data:image/png;base64,{data}"
    else:
        assert picture["source"] == source


# --- another format behind it ---


async def test_a_chat_model_is_asked_in_its_own_format(stack: Stack, fake: FakeProvider) -> None:
    use = {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {"city": "Oslo"}}
    body = {
        "model": GPT,
        "system": "Be brief.",
        "messages": [
            *HELLO,
            {"role": "assistant", "content": [{"type": "text", "text": "Hm"}, use]},
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "toolu_1", "content": "rain"},
                    {"type": "text", "text": "And?", "citations": None},
                ],
            },
        ],
        "tools": [{**WEATHER, "cache_control": MARK, "defer_loading": True}],
        "tool_choice": {"type": "any"},
        "stop_sequences": ["END"],
        "top_k": 5,
        "thinking": {"type": "disabled"},
        "metadata": {"user_id": "u-1"},
        "service_tier": "standard_only",
        "output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}},
    }
    answered = await post(stack, body)
    assert answered.status_code == 200, answered.text
    assert answered.headers["x-dropped-params"] == "top_k"
    [call] = fake.take()
    function = {"name": "get_weather", "arguments": '{"city":"Oslo"}'}
    assert call.json == {
        "model": "gpt-4o",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hello!"},
            {
                "role": "assistant",
                "content": "Hm",
                "tool_calls": [{"id": "toolu_1", "type": "function", "function": function}],
            },
            {"role": "tool", "tool_call_id": "toolu_1", "content": "rain"},
            {"role": "user", "content": "And?"},
        ],
        "tools": [
            {
                "type": "function",
                "function": {
                    "name": "get_weather",
                    "description": "Of a city.",
                    "parameters": WEATHER["input_schema"],
                },
            }
        ],
        "tool_choice": "required",
        "max_completion_tokens": 100,
        "stop": ["END"],
        "user": "u-1",
        "service_tier": "default",
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": {"type": "object"}, "strict": True},
        },
    }


@pytest.mark.parametrize("stream", [False, True])
async def test_a_chat_model_answers_in_claudes_form(sdk: AsyncAnthropic, stream: bool) -> None:
    message = await said(sdk, stream=stream, model=GPT, tools=[WEATHER])
    text, *calls = message.content
    assert (text.type, text.text) == ("text", "Look: ")
    assert [(call.type, call.id, call.input) for call in calls] == [
        ("tool_use", "call_0", {"city": "Paris"}),
        ("tool_use", "call_1", {"city": "Rome"}),
    ]
    assert message.stop_reason == "tool_use"
    assert message.model == "gpt-4o-1"
    usage = message.usage
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.output_tokens) == (15, 5, 9)


async def test_mixed_pieces_of_calls_become_one_block_after_the_other(stack: Stack) -> None:
    shown = await streamed(stack, {"model": GPT, "tools": [WEATHER]})
    assert shape(event for _, event in shown) == [
        ("message_start", None, None),
        ("content_block_start", 0, "text"),
        ("ping", None, None),
        ("content_block_delta", 0, "text_delta"),
        ("content_block_stop", 0, None),
        ("content_block_start", 1, "tool_use"),
        ("content_block_delta", 1, "input_json_delta"),
        ("content_block_stop", 1, None),
        ("content_block_start", 2, "tool_use"),
        ("content_block_delta", 2, "input_json_delta"),
        ("content_block_stop", 2, None),
        ("message_delta", None, None),
        ("message_stop", None, None),
    ]


async def test_the_simulator_thinks_and_calls_tools(sdk: AsyncAnthropic) -> None:
    message = await said(sdk, stream=True, model="sim/reasoning=4,tool_call=1", tools=[WEATHER])
    assert [block.type for block in message.content] == ["thinking", "tool_use"]
    assert message.content[0].thinking
    again = await sdk.messages.create(
        model="sim/echo",
        max_tokens=50,
        tools=[WEATHER],
        messages=[
            *HELLO,
            {"role": "assistant", "content": message.content},
            {
                "role": "user",
                "content": [
                    {
                        "type": "tool_result",
                        "tool_use_id": message.content[1].id,
                        "content": "rain",
                    },
                    {"type": "text", "text": "so it rains"},
                ],
            },
        ],
    )
    assert again.content[0].to_dict()["text"] == "so it rains"


# --- counting ---


@pytest.mark.parametrize(
    ("model", "path", "inside"),
    [
        (OPUS, "/v1/messages/count_tokens", []),
        (
            "gemini/gemini-2.5-flash",
            "/v1beta/models/gemini-2.5-flash:countTokens",
            ["generateContentRequest"],
        ),
        (
            "bedrock/us.anthropic.claude-sonnet-4-5-20250929-v1:0",
            "/model/anthropic.claude-sonnet-4-5-20250929-v1%3A0/count-tokens",
            ["input", "converse"],
        ),
    ],
)
async def test_providers_that_count_are_asked_to(
    sdk: AsyncAnthropic, fake: FakeProvider, model: str, path: str, inside: list[str]
) -> None:
    counted = await sdk.messages.count_tokens(
        model=model, messages=HELLO, system="Be brief.", tools=[WEATHER]
    )
    assert counted.to_dict() == {"input_tokens": 42}
    [call] = fake.take()
    assert call.path == path
    body = call.json
    for name in inside:
        body = body[name]
    assert not {"max_tokens", "inferenceConfig", "stream"} & body.keys()
    assert {"messages", "contents"} & body.keys()


async def test_for_others_it_is_estimated(sdk: AsyncAnthropic, fake: FakeProvider) -> None:
    counted = await sdk.messages.count_tokens(model=GPT, messages=HELLO, system="Be brief.")
    assert counted.to_dict() == {"input_tokens": 4, "estimated": True}
    assert not fake.take()


async def test_typed_requests_are_counted_too(stack: Stack) -> None:
    request = generation_pb2.Request(count_tokens=rpc.ask(OPUS).generate)
    async with rpc.connected(stack) as client:
        answer = (await client.infer(request)).answer
    assert answer.token_count.input_tokens == 42
