"""What the official libraries for Python do for each row of the matrix, and what it is told."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import anthropic
import openai
import pytest
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI
from pydantic import BaseModel

from tests.clients import python_media as media
from tests.clients.file_calls import FILE_CALLS
from tests.clients.upstream import REFUSED, SLOW
from tests.workers.responses_answers import PIXEL

HELLO: Any = [{"role": "user", "content": "Hello there!"}]
WEATHER: dict[str, Any] = {
    "name": "get_weather",
    "description": "The weather of a place.",
    "parameters": {
        "type": "object",
        "properties": {"location": {"type": "string"}, "days": {"type": "integer"}},
        "required": ["location", "days"],
        "additionalProperties": False,
    },
    "strict": True,
}
ARGUMENTS = {"location": "Boston", "days": 18}


class Weather(BaseModel):
    city: str
    degrees: int


def heard(model: str, words: str = "Hello there!") -> str:
    return f"{model.partition('/')[0]} heard: {words}"


async def chat(sdk: AsyncOpenAI, model: str) -> None:
    told = await sdk.chat.completions.create(model=model, messages=HELLO)
    assert told.choices[0].message.content == heard(model)
    assert told.choices[0].finish_reason == "stop"
    assert told.id.startswith("chatcmpl-")
    assert told.usage
    assert told.usage.total_tokens == told.usage.prompt_tokens + told.usage.completion_tokens
    assert told._request_id
    assert told._request_id.startswith("req_")


async def chat_streamed(sdk: AsyncOpenAI, model: str) -> None:
    options: Any = {"include_usage": True}
    stream: Any = await sdk.chat.completions.create(
        model=model, messages=HELLO, stream=True, stream_options=options
    )
    chunks = [chunk async for chunk in stream]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == heard(model)
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].usage.completion_tokens > 0
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"


async def _tools(sdk: AsyncOpenAI, model: str, *, stream: bool) -> None:
    asked: Any = {
        "model": model,
        "messages": HELLO,
        "tools": [{"type": "function", "function": WEATHER}],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
    }
    if stream:
        async with sdk.chat.completions.stream(**asked) as events:
            told: Any = await events.get_final_completion()
    else:
        told = await sdk.chat.completions.create(**asked)
    assert told.choices[0].finish_reason == "tool_calls"
    [call] = told.choices[0].message.tool_calls
    assert (call.type, call.function.name) == ("function", "get_weather")
    assert json.loads(call.function.arguments) == ARGUMENTS
    message = told.choices[0].message.model_dump(exclude_none=True, exclude={"parsed"})
    result = {"role": "tool", "tool_call_id": call.id, "content": "18 degrees"}
    told = await sdk.chat.completions.create(
        **{**asked, "messages": [*HELLO, message, result]},
    )
    assert told.choices[0].finish_reason == "stop"
    assert told.choices[0].message.content.startswith(heard(model, ""))


async def chat_tools(sdk: AsyncOpenAI, model: str) -> None:
    await _tools(sdk, model, stream=False)


async def chat_tools_streamed(sdk: AsyncOpenAI, model: str) -> None:
    await _tools(sdk, model, stream=True)


async def chat_parsed(sdk: AsyncOpenAI, model: str) -> None:
    told = await sdk.chat.completions.parse(model=model, messages=HELLO, response_format=Weather)
    assert told.choices[0].message.parsed == Weather(city="Boston", degrees=18)


async def completions(sdk: AsyncOpenAI, model: str) -> None:
    told = await sdk.completions.create(model=model, prompt="Once upon")
    assert told.object == "text_completion"
    assert told.id.startswith("cmpl-")
    assert told.choices[0].text == heard(model, "Once upon")
    assert told.choices[0].finish_reason == "stop"
    assert told.usage
    assert told.usage.completion_tokens > 0


async def completions_streamed(sdk: AsyncOpenAI, model: str) -> None:
    stream: Any = await sdk.completions.create(model=model, prompt="Once upon", stream=True)
    chunks = [chunk async for chunk in stream]
    text = "".join(chunk.choices[0].text for chunk in chunks if chunk.choices)
    assert text == heard(model, "Once upon")
    assert len({chunk.id for chunk in chunks}) == 1


async def responses(sdk: AsyncOpenAI, model: str) -> None:
    told = await sdk.responses.create(model=model, input="Hello there!")
    assert told.output_text == heard(model)
    assert told.status == "completed"
    assert told.id.startswith("resp_")
    assert told.usage
    assert told.usage.total_tokens == told.usage.input_tokens + told.usage.output_tokens


async def responses_streamed(sdk: AsyncOpenAI, model: str) -> None:
    async with sdk.responses.stream(model=model, input="Hello there!") as stream:
        events = [event async for event in stream]
        final = await stream.get_final_response()
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[0].type == "response.created"
    assert events[-1].type == "response.completed"
    deltas = [e.delta for e in events if e.type == "response.output_text.delta"]
    assert "".join(deltas) == final.output_text == heard(model)


async def responses_tools(sdk: AsyncOpenAI, model: str) -> None:
    tools: Any = [{"type": "function", **WEATHER}]
    told = await sdk.responses.create(model=model, input="Hello there!", tools=tools)
    call: Any = told.output[-1]
    assert (call.type, call.name) == ("function_call", "get_weather")
    assert json.loads(call.arguments) == ARGUMENTS
    result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "18 degrees"}
    told = await sdk.responses.create(
        model=model, input=[result], tools=tools, previous_response_id=told.id
    )
    assert told.output_text.startswith(heard(model, ""))


async def responses_parsed(sdk: AsyncOpenAI, model: str) -> None:
    told = await sdk.responses.parse(model=model, input="Hello there!", text_format=Weather)
    assert told.output_parsed == Weather(city="Boston", degrees=18)


async def responses_chained(sdk: AsyncOpenAI, model: str) -> None:
    first = await sdk.responses.create(model=model, input="Hello there!")
    second = await sdk.responses.create(
        model=model, input="And then?", previous_response_id=first.id
    )
    assert second.previous_response_id == first.id
    assert second.output_text == heard(model, "And then?")
    items: Any = [item async for item in sdk.responses.input_items.list(second.id)]
    assert items[-1].content[0].text == "And then?"


async def responses_kept(sdk: AsyncOpenAI, model: str) -> None:
    told = await sdk.responses.create(model=model, input="Hello there!", metadata={"a": "b"})
    kept = await sdk.responses.retrieve(told.id)
    assert kept == told
    assert kept.metadata == {"a": "b"}
    said: Any = [{"role": "user", "content": str(number)} for number in range(5)]
    told = await sdk.responses.create(model=model, input=said)
    page = await sdk.responses.input_items.list(told.id, limit=2, order="asc")
    assert page.has_next_page()
    items: Any = [item async for item in page]
    assert [item.content[0].text for item in items] == ["0", "1", "2", "3", "4"]
    references: Any = [{"type": "item_reference", "id": item.id} for item in items[:1]]
    again = await sdk.responses.create(model=model, input=references)
    assert again.output_text == heard(model, "0")
    await sdk.responses.delete(told.id)
    with pytest.raises(openai.NotFoundError):
        await sdk.responses.retrieve(told.id)


async def responses_background(sdk: AsyncOpenAI, model: str) -> None:
    queued = await sdk.responses.create(model=model, input="Hello there!", background=True)
    assert queued.status in ("queued", "in_progress")
    events = [event async for event in await sdk.responses.retrieve(queued.id, stream=True)]
    assert events[-1].type == "response.completed"
    assert events[-1].response.output_text == heard(model)
    rest = await sdk.responses.retrieve(queued.id, stream=True, starting_after=2)
    assert [event async for event in rest] == events[3:]
    # One that is over stays as it is.
    assert (await sdk.responses.cancel(queued.id)).status == "completed"
    streamed: Any = await sdk.responses.create(
        model=model, input="Hello there!", background=True, stream=True
    )
    assert [event.type async for event in streamed] == [event.type for event in events]
    async with sdk.responses.stream(response_id=queued.id, starting_after=2) as stream:
        resumed = [event.type async for event in stream]
    assert resumed == [event.type for event in events[3:]]


async def responses_cancelled(sdk: AsyncOpenAI, model: str) -> None:
    running = await sdk.responses.create(model=model, input=SLOW, background=True)
    assert (await sdk.responses.cancel(running.id)).status == "cancelled"
    assert (await sdk.responses.retrieve(running.id)).status == "cancelled"


async def responses_counted(sdk: AsyncOpenAI, model: str) -> None:
    told = await sdk.responses.input_tokens.count(model=model, input="Hello there!")
    assert told.object == "response.input_tokens"
    assert told.input_tokens > 0


async def responses_images(sdk: AsyncOpenAI, model: str) -> None:
    told = await sdk.responses.create(
        model=model, input="Draw a cat.", tools=[{"type": "image_generation"}]
    )
    [image] = [item for item in told.output if item.type == "image_generation_call"]
    assert (image.status, image.result) == ("completed", PIXEL)
    assert told.output_text.startswith(heard(model, ""))


async def responses_images_streamed(sdk: AsyncOpenAI, model: str) -> None:
    stream: Any = await sdk.responses.create(
        model=model,
        input="Draw a cat.",
        stream=True,
        tools=[{"type": "image_generation", "partial_images": 1}],
    )
    events = [event async for event in stream]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    drawn = [event for event in events if "image_generation_call" in event.type]
    assert [event.type.rpartition(".")[2] for event in drawn] == [
        *("in_progress", "generating", "partial_image", "completed"),
    ]
    assert (drawn[2].partial_image_index, drawn[2].partial_image_b64) == (0, PIXEL)
    images = [i for i in events[-1].response.output if i.type == "image_generation_call"]
    assert [image.result for image in images] == [PIXEL]


async def conversations(sdk: AsyncOpenAI, model: str) -> None:
    opened = await sdk.conversations.create(metadata={"topic": "demo"})
    told = await sdk.responses.create(model=model, input="Hello there!", conversation=opened.id)
    assert told.conversation
    assert told.conversation.id == opened.id
    items: Any = [item async for item in sdk.conversations.items.list(opened.id, order="asc")]
    assert [item.role for item in items] == ["user", "assistant"]
    one: Any = await sdk.conversations.items.retrieve(items[0].id, conversation_id=opened.id)
    assert one.content[0].text == "Hello there!"
    more: Any = [{"type": "message", "role": "user", "content": "One more."}]
    added = await sdk.conversations.items.create(opened.id, items=more)
    assert len(added.data) == 1
    left = await sdk.conversations.items.delete(added.data[0].id or "", conversation_id=opened.id)
    assert left.id == opened.id
    pages: Any = await sdk.conversations.items.list(opened.id, limit=1, order="asc")
    assert [item.id async for item in pages] == [item.id for item in items]
    changed = await sdk.conversations.update(opened.id, metadata={"topic": "other"})
    assert changed.metadata == {"topic": "other"}
    assert (await sdk.conversations.retrieve(opened.id)).metadata == {"topic": "other"}
    assert (await sdk.conversations.delete(opened.id)).deleted
    with pytest.raises(openai.NotFoundError):
        await sdk.conversations.retrieve(opened.id)


async def models(sdk: AsyncOpenAI, model: str) -> None:
    provider = model.partition("/")[0]
    listed = [found async for found in sdk.models.list() if found.owned_by == provider]
    assert listed
    assert await sdk.models.retrieve(listed[0].id) == listed[0]
    plain = listed[0].id.removeprefix(f"{provider}/")
    assert (await sdk.models.retrieve(plain)).id == plain
    async with anthropic_client(sdk) as client:
        told = [found async for found in client.models.list()]
        theirs = [found for found in told if found.id.startswith(f"{provider}/")]
        assert await client.models.retrieve(theirs[0].id) == theirs[0]
    assert {found.type for found in told} == {"model"}
    assert theirs[0].id in [found.id for found in listed]


def anthropic_client(sdk: AsyncOpenAI) -> AsyncAnthropic:
    base_url = str(sdk.base_url).removesuffix("/v1/")
    return AsyncAnthropic(api_key=sdk.api_key, base_url=base_url, max_retries=0, timeout=30)


async def messages(sdk: AsyncOpenAI, model: str) -> None:
    async with anthropic_client(sdk) as client:
        told = await client.messages.create(model=model, messages=HELLO, max_tokens=100)
    assert [block.text for block in told.content if block.type == "text"] == [heard(model)]
    assert (told.role, told.stop_reason) == ("assistant", "end_turn")
    assert told.id.startswith("msg_")
    assert told.usage.output_tokens > 0
    assert told._request_id
    assert told._request_id.startswith("req_")


async def messages_streamed(sdk: AsyncOpenAI, model: str) -> None:
    async with (
        anthropic_client(sdk) as client,
        client.messages.stream(model=model, messages=HELLO, max_tokens=100) as stream,
    ):
        pieces = [text async for text in stream.text_stream]
        told = await stream.get_final_message()
    assert len(pieces) > 1
    assert "".join(pieces) == heard(model)
    assert told.stop_reason == "end_turn"


async def messages_tools(sdk: AsyncOpenAI, model: str) -> None:
    tool: Any = {"name": WEATHER["name"], "input_schema": WEATHER["parameters"]}
    async with anthropic_client(sdk) as client:
        asked: Any = {"model": model, "max_tokens": 100, "tools": [tool]}
        told = await client.messages.create(**asked, messages=HELLO)
        assert told.stop_reason == "tool_use"
        [call] = [block for block in told.content if block.type == "tool_use"]
        assert (call.name, call.input) == ("get_weather", ARGUMENTS)
        result = {"type": "tool_result", "tool_use_id": call.id, "content": "18 degrees"}
        said = {"role": "assistant", "content": [block.model_dump() for block in told.content]}
        history = [*HELLO, said, {"role": "user", "content": [result]}]
        told = await client.messages.create(**asked, messages=history)
    assert told.stop_reason == "end_turn"


async def messages_counted(sdk: AsyncOpenAI, model: str) -> None:
    async with anthropic_client(sdk) as client:
        told = await client.messages.count_tokens(model=model, messages=HELLO)
    assert told.input_tokens > 0


async def errors(sdk: AsyncOpenAI, model: str) -> None:
    """What the provider refuses, what we refuse, and who is not known, in each API's classes."""
    refused: Any = [{"role": "user", "content": REFUSED}]
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError, match=REFUSED) as chat_error:
            await sdk.chat.completions.create(model=model, messages=refused, stream=stream)
        assert chat_error.value.type == "invalid_request_error"
        assert chat_error.value.request_id
    with pytest.raises(openai.BadRequestError, match=REFUSED):
        await sdk.responses.create(model=model, input=REFUSED)
    with pytest.raises(openai.BadRequestError) as hot:
        await sdk.chat.completions.create(model=model, messages=HELLO, temperature=3)
    assert hot.value.param == "temperature"
    async with anthropic_client(sdk) as client:
        with pytest.raises(anthropic.BadRequestError, match=REFUSED):
            await client.messages.create(model=model, messages=refused, max_tokens=100)
    with pytest.raises(openai.AuthenticationError) as unknown:
        await sdk.with_options(api_key="mr-wrong").chat.completions.create(
            model=model, messages=HELLO
        )
    assert unknown.value.code == "invalid_api_key"


CALLS: dict[str, Callable[[AsyncOpenAI, str], Awaitable[None]]] = {
    "chat": chat,
    "chat, streamed": chat_streamed,
    "chat, tools": chat_tools,
    "chat, tools streamed": chat_tools_streamed,
    "chat, parsed": chat_parsed,
    "completions": completions,
    "completions, streamed": completions_streamed,
    "embeddings": media.embeddings,
    "images": media.images,
    "images, edited": media.images_edited,
    "images, streamed": media.images_streamed,
    "speech": media.speech,
    "speech, as events": media.speech_as_events,
    "transcriptions": media.transcriptions,
    "transcriptions, streamed": media.transcriptions_streamed,
    "transcriptions, subtitles": media.transcriptions_subtitles,
    "translations": media.translations,
    "moderations": media.moderations,
    "rerank": media.rerank,
    "responses": responses,
    "responses, streamed": responses_streamed,
    "responses, tools": responses_tools,
    "responses, parsed": responses_parsed,
    "responses, chained": responses_chained,
    "responses, kept": responses_kept,
    "responses, in the background": responses_background,
    "responses, cancelled": responses_cancelled,
    "responses, counted": responses_counted,
    "responses, images": responses_images,
    "responses, images streamed": responses_images_streamed,
    "conversations": conversations,
    "messages": messages,
    "messages, streamed": messages_streamed,
    "messages, tools": messages_tools,
    "messages, counted": messages_counted,
    **FILE_CALLS,
    "models": models,
    "errors": errors,
}
