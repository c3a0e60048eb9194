"""Asks for messages, with the official library and without, for tests."""

from __future__ import annotations

import json
from typing import Any

import httpx
from anthropic import AsyncAnthropic

from tests.system.stack import KEY, Stack

OPUS = "anthropic/claude-opus-4-5"
GPT = "openai/gpt-4o"
HELLO: Any = [{"role": "user", "content": "Hello!"}]


def connect(stack: Stack) -> AsyncAnthropic:
    """The official library, talking to a stack."""
    return AsyncAnthropic(api_key=KEY, base_url=stack.url(), max_retries=0, timeout=30)


async def post(stack: Stack, body: dict[str, Any], **headers: str) -> httpx.Response:
    async with httpx.AsyncClient(base_url=stack.url(), timeout=30) as client:
        given = {"x-api-key": KEY, "anthropic-version": "2023-06-01", **headers}
        path = "/v1/messages"
        whole = {"max_tokens": 100, "messages": HELLO, **body}
        return await client.post(path, json=whole, headers=given)


async def said(sdk: AsyncAnthropic, *, stream: bool, **fields: Any) -> Any:
    """The message that the library makes of an answer."""
    whole = {"max_tokens": 100, "messages": HELLO, **fields}
    if not stream:
        return await sdk.messages.create(**whole)
    async with sdk.messages.stream(**whole) as events:
        return await events.get_final_message()


async def streamed(stack: Stack, body: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The events of a stream, each with the name that stands before it."""
    answered = await post(stack, {"stream": True, **body})
    assert answered.status_code == 200, answered.text
    text = answered.text
    found = []
    for block in filter(None, text.split("\n\n")):
        name, data = block.split("\n")
        found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    assert all(name == event["type"] for name, event in found)
    return found
