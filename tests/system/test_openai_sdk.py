"""The official OpenAI library for Python against the whole system, upstream included."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import (
    ChatCompletionMessageParam,
    ChatCompletionMessageToolCall,
    ChatCompletionToolParam,
)
from pydantic import BaseModel

from tests.system.shared import shared_stack
from tests.system.stack import KEY, Stack, until

HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hello!"}]
WEATHER: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


@pytest.fixture(scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    async with shared_stack(tmp_path_factory) as stack:
        yield stack


@pytest.fixture
async def sdk(stack: Stack) -> AsyncIterator[AsyncOpenAI]:
    await stack.reset_sim()
    async with connect(stack) as client:
        yield client


def connect(stack: Stack, key: str = KEY, **options: Any) -> AsyncOpenAI:
    more = {"max_retries": 0, "timeout": 30.0, **options}
    return AsyncOpenAI(api_key=key, base_url=f"{stack.url()}/v1", **more)


async def calls(stack: Stack) -> int:
    return int((await stack.sim_stats())["calls"])


# --- what works ---


async def test_a_chat_completion(sdk: AsyncOpenAI) -> None:
    answer = await sdk.chat.completions.create(
        model="sim/sim-tokens=5", messages=HELLO, temperature=0.2, seed=1, user="u"
    )
    choice = answer.choices[0]
    assert answer.object == "chat.completion"
    assert answer.id.startswith("chatcmpl-")
    assert answer.model == "sim-tokens=5"
    assert choice.message.role == "assistant"
    assert choice.message.content
    assert len(choice.message.content.split()) == 5
    assert choice.finish_reason == "stop"
    assert answer.usage
    assert answer.usage.completion_tokens == 5
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 5
    assert answer._request_id
    assert answer._request_id.startswith("req_")


async def test_the_synchronous_client(stack: Stack) -> None:
    def talk() -> str:
        with OpenAI(api_key=KEY, base_url=f"{stack.url()}/v1", max_retries=0) as client:
            stream = client.chat.completions.create(model="sim/echo", messages=HELLO, stream=True)
            return "".join(c.choices[0].delta.content or "" for c in stream if c.choices)

    assert await asyncio.to_thread(talk) == "Hello!"


async def test_a_stream_of_chunks(sdk: AsyncOpenAI) -> None:
    stream = await sdk.chat.completions.create(
        model="sim/sim-tokens=7",
        messages=HELLO,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage
    assert chunks[-1].usage.completion_tokens == 7
    assert all(chunk.usage is None for chunk in chunks[:-1])


async def test_the_stream_helper(sdk: AsyncOpenAI) -> None:
    async with sdk.chat.completions.stream(model="sim/sim-tokens=9", messages=HELLO) as stream:
        said = [event.delta async for event in stream if event.type == "content.delta"]
        final = await stream.get_final_completion()
    assert len(said) > 1
    assert final.choices[0].message.content == "".join(said)
    assert final.choices[0].finish_reason == "stop"


async def test_several_choices(sdk: AsyncOpenAI) -> None:
    answer = await sdk.chat.completions.create(model="sim/sim-tokens=4", messages=HELLO, n=3)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert len({choice.message.content for choice in answer.choices}) == 3


@pytest.mark.parametrize("streamed", [False, True])
async def test_tools_are_called_and_their_results_go_back(
    sdk: AsyncOpenAI, *, streamed: bool
) -> None:
    asked: dict[str, Any] = {
        "model": "sim/sim-tool_call=1",
        "messages": HELLO,
        "tools": [WEATHER],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
    }
    if streamed:
        async with sdk.chat.completions.stream(**asked) as stream:
            answer: Any = await stream.get_final_completion()
    else:
        answer = await sdk.chat.completions.create(**asked)
    message = answer.choices[0].message
    assert answer.choices[0].finish_reason == "tool_calls"
    call = message.tool_calls[0]
    assert isinstance(call, ChatCompletionMessageToolCall)
    assert (call.type, call.function.name) == ("function", "get_weather")
    assert call.id
    assert isinstance(json.loads(call.function.arguments), dict)
    history: Any = [
        *HELLO,
        message.model_dump(exclude_none=True, exclude={"parsed"}),
        {"role": "tool", "tool_call_id": call.id, "content": "18 degrees"},
    ]
    answer = await sdk.chat.completions.create(
        model="sim/sim-tokens=3", messages=history, tools=[WEATHER]
    )
    assert answer.choices[0].message.content


class Weather(BaseModel):
    city: str
    degrees: int


JSON: list[ChatCompletionMessageParam] = [
    {"role": "user", "content": '{"city": "Paris", "degrees": 18}'}
]


async def test_a_structured_answer_is_parsed(sdk: AsyncOpenAI) -> None:
    answer = await sdk.chat.completions.parse(
        model="sim/echo", messages=JSON, response_format=Weather
    )
    assert answer.choices[0].message.parsed == Weather(city="Paris", degrees=18)
    async with sdk.chat.completions.stream(
        model="sim/echo", messages=JSON, response_format=Weather
    ) as stream:
        final = await stream.get_final_completion()
    assert final.choices[0].message.parsed == Weather(city="Paris", degrees=18)


async def test_raw_responses_show_the_headers(sdk: AsyncOpenAI) -> None:
    raw = await sdk.chat.completions.with_raw_response.create(
        model="sim/sim-tokens=2", messages=HELLO
    )
    assert raw.status_code == 200
    assert raw.headers["x-request-id"].startswith("req_")
    assert raw.headers["x-millrace-provider"] == "sim"
    assert raw.headers["x-millrace-upstream-request-id"].startswith("req_sim")
    assert int(raw.headers["openai-processing-ms"]) >= 0
    assert raw.parse().choices[0].message.content
    async with sdk.chat.completions.with_streaming_response.create(
        model="sim/sim-tokens=2", messages=HELLO, stream=True
    ) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line async for line in response.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"


async def test_models_are_listed_and_found(sdk: AsyncOpenAI) -> None:
    listed = {model.id: model async for model in sdk.models.list()}
    assert {"sim/sim", "sim/echo"} <= set(listed)
    found = await sdk.models.retrieve("sim/echo")
    assert (found.id, found.object, found.owned_by) == ("sim/echo", "model", "sim")
    assert found == listed["sim/echo"]
    with pytest.raises(openai.NotFoundError) as caught:
        await sdk.models.retrieve("sim/ecko")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    assert "sim/echo" in caught.value.message


async def test_extra_fields_and_headers_reach_the_provider(sdk: AsyncOpenAI) -> None:
    """Sim's own field says that it got there."""
    answer = await sdk.chat.completions.create(
        model="sim/sim",
        messages=HELLO,
        extra_body={"sim": {"tokens": 3}},
        extra_headers={"openai-organization": "org-1"},
    )
    assert answer.usage
    assert answer.usage.completion_tokens == 3


# --- what fails ---

# Upstream status -> what the caller sees, and its class. Sources: the error table and the SDK.
STATUSES: dict[int, tuple[int, type[openai.APIStatusError], str | None]] = {
    400: (400, openai.BadRequestError, None),
    401: (502, openai.InternalServerError, "upstream_credentials"),
    403: (502, openai.InternalServerError, "upstream_credentials"),
    404: (404, openai.NotFoundError, "model_not_found"),
    422: (422, openai.UnprocessableEntityError, None),
    429: (429, openai.RateLimitError, "rate_limit_exceeded"),
    500: (502, openai.InternalServerError, "upstream_error"),
    503: (503, openai.InternalServerError, "overloaded"),
    529: (503, openai.InternalServerError, "overloaded"),
}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("status", STATUSES)
async def test_each_status_of_the_provider_raises_its_class(
    stack: Stack, sdk: AsyncOpenAI, status: int, *, stream: bool
) -> None:
    # A wait that is too long to sit out here ends the tries within.
    model = f"sim/sim-fault=status,status={status},retry_after=30,key={stream:d}"
    shown, expected, code = STATUSES[status]
    with pytest.raises(openai.APIStatusError) as caught:
        await sdk.chat.completions.create(model=model, messages=HELLO, stream=stream)
    error = caught.value
    assert type(error) is expected
    assert (error.status_code, error.code) == (shown, code)
    assert error.message.endswith(f"simulated status {status}") or str(status) in error.message
    assert set(error.body) == {"message", "type", "param", "code"}  # type: ignore[call-overload]
    assert error.request_id
    assert error.request_id.startswith("req_")
    waits = shown in (429, 503)
    assert error.response.headers.get("retry-after") == ("30" if waits else None)
    assert error.response.headers.get("x-should-retry") == (None if waits else "false")
    assert await calls(stack) == 1


async def test_our_own_refusals_raise_their_classes(stack: Stack, sdk: AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        await sdk.chat.completions.create(model="nobody/knows", messages=HELLO)
    assert (unknown.value.code, unknown.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError) as hot:
        await sdk.chat.completions.create(model="sim/echo", messages=HELLO, temperature=3)
    assert hot.value.param == "temperature"
    async with connect(stack, key="mr-wrong") as stranger:
        for call in (
            stranger.chat.completions.create(model="sim/echo", messages=HELLO),
            stranger.chat.completions.create(model="sim/echo", messages=HELLO, stream=True),
            stranger.models.retrieve("sim/echo"),
        ):
            with pytest.raises(openai.AuthenticationError) as wrong:
                await call
            assert wrong.value.code == "invalid_api_key"
    with pytest.raises(openai.APIStatusError) as large:
        big = "x" * (33 << 20)
        await sdk.chat.completions.create(
            model="sim/echo", messages=[{"role": "user", "content": big}]
        )
    assert (large.value.status_code, large.value.code) == (413, "request_too_large")
    assert await calls(stack) == 0


@pytest.mark.parametrize("fault", ["error_event", "cut", "bad_json"])
async def test_an_error_inside_a_stream_is_an_api_error(sdk: AsyncOpenAI, fault: str) -> None:
    stream = await sdk.chat.completions.create(
        model=f"sim/sim-tokens=10,delay_ms=20,fault={fault},after=4", messages=HELLO, stream=True
    )
    said = ""
    with pytest.raises(openai.APIError) as caught:
        async for chunk in stream:
            said += chunk.choices[0].delta.content or ""
    assert type(caught.value) is openai.APIError
    assert len(said.split()) == 4
    assert caught.value.code
    assert caught.value.message


async def test_a_timeout_of_the_client_closes_the_upstream_call(
    stack: Stack, sdk: AsyncOpenAI
) -> None:
    async def none_open() -> bool:
        return not (await stack.sim_stats())["open"]

    for options in ({}, {"stream": True}):
        with pytest.raises(openai.APITimeoutError):
            await sdk.chat.completions.create(
                model="sim/sim-ttft_ms=30000",
                messages=HELLO,
                timeout=0.5,
                **options,  # type: ignore[call-overload]
            )
        await until(none_open, "the upstream call was closed", 2)
    assert await calls(stack) == 2


# --- how often it is tried ---


async def test_what_a_retry_cannot_help_is_not_tried_again(stack: Stack) -> None:
    """The SDK would try a 502 twice more by itself; we have tried already."""
    await stack.reset_sim()
    async with connect(stack, max_retries=2) as client:
        for status, tries in ((400, 1), (401, 1), (500, 3)):
            before = await calls(stack)
            with pytest.raises(openai.APIStatusError):
                await client.chat.completions.create(
                    model=f"sim/sim-fault=status,status={status}", messages=HELLO
                )
            assert await calls(stack) - before == tries


async def test_what_waiting_helps_is_tried_again_after_the_time_told(stack: Stack) -> None:
    await stack.reset_sim()
    # Three tries within, then 503 with a second to wait, then the library's own.
    model = "sim/sim-tokens=3,fault=status,status=503,first_n=3,key=waiting"
    async with connect(stack, max_retries=1) as client:
        begun = time.monotonic()
        answer = await client.chat.completions.create(model=model, messages=HELLO)
        took = time.monotonic() - begun
    assert answer.choices[0].message.content
    assert await calls(stack) == 4
    assert 1.0 < took < 6.0


async def test_an_error_that_passes_within_is_not_seen_at_all(stack: Stack) -> None:
    await stack.reset_sim()
    model = "sim/sim-tokens=3,fault=status,status=500,first_n=1,key=within"
    async with connect(stack) as client:
        answer = await client.chat.completions.create(model=model, messages=HELLO)
    assert answer.choices[0].message.content
    assert await calls(stack) == 2
