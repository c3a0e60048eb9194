"""Every call of the public page of chat parameters, through OpenAI's library, at four providers."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from tests.system.provider import FakeProvider, Received, Said, fake_provider
from tests.system.shared import shared_stack
from tests.system.stack import KEY, Stack
from tests.workers.conformance.recordings import FOLDER, load

# The models of the page, and what their providers answer: whole, and streamed.
MODELS = {
    "openai/gpt-4o": ("text", "stream-text-with-usage"),
    "anthropic/claude-3-7-sonnet-latest": ("text", "stream-text-cached"),
    "gemini/gemini-1.5-pro": ("text-signed", "stream-text"),
    "deepseek/deepseek-v3": ("text", "stream-text"),
}
RECORDED = {model.partition("/")[0]: names for model, names in MODELS.items()}
HELLO = [{"role": "user", "content": "Hello, how are you?"}]
BOSTON = [{"role": "user", "content": "What's the weather in Boston?"}]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Get the weather in a location",
            "parameters": {
                "type": "object",
                "properties": {"location": {"type": "string"}},
                "required": ["location"],
            },
        },
    }
]
NAMED = {"type": "function", "function": {"name": "get_weather"}}
JSON = [
    {"role": "system", "content": "Output JSON."},
    {"role": "user", "content": "List 3 colors"},
]
CALLS: dict[str, dict[str, Any]] = {
    "quick start": {"max_tokens": 100, "temperature": 0.7},
    "messages": {
        "messages": [{"role": "system", "content": "You are a helpful assistant."}, *HELLO]
    },
    "temperature": {"temperature": 0.7},
    "max_tokens": {"max_tokens": 100},
    "max_completion_tokens": {"max_completion_tokens": 100},
    "top_p": {"top_p": 0.9},
    "n": {"n": 1},
    "stream": {"stream": True},
    "stream_options": {"stream": True, "stream_options": {"include_usage": True}},
    "stop": {"stop": ["END", "STOP"]},
    "penalties": {"presence_penalty": 0.5, "frequency_penalty": 0.5},
    "seed": {"seed": 7},
    "tools": {"messages": BOSTON, "tools": TOOLS},
    "tool_choice auto": {"messages": BOSTON, "tools": TOOLS, "tool_choice": "auto"},
    "tool_choice none": {"messages": BOSTON, "tools": TOOLS, "tool_choice": "none"},
    "tool_choice named": {"messages": BOSTON, "tools": TOOLS, "tool_choice": NAMED},
    "parallel_tool_calls": {"messages": BOSTON, "tools": TOOLS, "parallel_tool_calls": False},
    "functions": {"functions": [TOOLS[0]["function"]], "function_call": "auto"},
    "logit_bias": {"logit_bias": {"50256": -100}},
    "user": {"user": "user-7"},
    "logprobs": {"logprobs": True, "top_logprobs": 5},
    "extra_headers": {"extra_headers": {"X-Custom-Header": "value"}},
    "sort by price": {"extra_body": {"provider": {"sort": "price", "compliance": "AE"}}},
    "sort by latency": {"extra_body": {"provider": {"sort": "latency"}}},
}


def answer(received: Received) -> Said:
    whole, streamed = RECORDED[received.provider]
    asks = received.json.get("stream") or "streamGenerateContent" in received.path
    found = load(FOLDER / received.provider / f"{streamed if asks else whole}.json")
    headers = {"content-type": "text/event-stream" if asks else "application/json"}
    return Said(found.status, found.answer, headers)


@pytest.fixture(scope="module")
async def town(
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[tuple[Stack, FakeProvider]]:
    async with fake_provider(answer) as fake:
        rows = {name: {"base_url": fake.url(name), "api_key": "k"} for name in RECORDED}
        # Certified for the Emirates: all but one.
        certified = {name: ["AE"] for name in RECORDED if name != "openai"}
        async with shared_stack(
            tmp_path_factory,
            providers=rows,
            serves=tuple(RECORDED),
            sections={"routing": {"compliance": certified}},
        ) as stack:
            yield stack, fake


@contextlib.asynccontextmanager
async def connected(stack: Stack) -> AsyncIterator[Any]:
    async with AsyncOpenAI(base_url=f"{stack.url()}/v1", api_key=KEY, max_retries=0) as sdk:
        yield sdk.chat.completions


@pytest.mark.parametrize("model", MODELS)
async def test_every_call_of_the_page_is_answered(
    town: tuple[Stack, FakeProvider], model: str
) -> None:
    stack, fake = town
    async with connected(stack) as completions:
        for name, fields in CALLS.items():
            asked = {"model": model, "messages": HELLO, **fields}
            if name == "sort by price" and model.startswith("openai/"):
                with pytest.raises(openai.PermissionDeniedError):
                    await completions.create(**asked)
                continue
            fake.take()
            reply = await completions.create(**asked)
            if not asked.get("stream"):
                assert reply.choices[0].message.content, (model, name)
                assert reply.usage.total_tokens > 0, (model, name)
            else:
                chunks = [chunk async for chunk in reply]
                said = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
                assert "".join(said), (model, name)
                assert bool(chunks[-1].usage) == ("stream_options" in fields), (model, name)
            calls = fake.take()
            assert [call.provider for call in calls] == [model.partition("/")[0]], (model, name)
            if name == "extra_headers":
                assert calls[0].headers["x-custom-header"] == "value"
            assert "provider" not in calls[0].json, (model, name)


@pytest.mark.parametrize("model", MODELS)
async def test_the_pages_answer_in_json_is_json_or_an_error(
    town: tuple[Stack, FakeProvider], model: str
) -> None:
    """The recordings answer in prose: where we and not the provider vouch for JSON, that is told."""
    stack, fake = town
    fake.take()
    asked = {"model": model, "messages": JSON, "response_format": {"type": "json_object"}}
    async with connected(stack) as completions:
        if model.startswith("anthropic/"):
            with pytest.raises(openai.InternalServerError) as caught:
                await completions.create(**asked)
            assert caught.value.code == "invalid_answer"
        else:
            assert (await completions.create(**asked)).choices[0].message.content
    assert fake.take()
