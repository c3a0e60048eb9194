"""What tests read of the Responses API: events of a stream, and a response until it is over."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx

from tests.system.stack import Stack, until

OVER = ("completed", "incomplete", "failed", "cancelled")


async def create(client: httpx.AsyncClient, model: str, text: Any = "hi", /, **more: Any) -> Any:
    """The response object, once it is answered (or queued)."""
    body = {"model": model, "input": text, **more}
    answer = await client.post("/v1/responses", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def over(client: httpx.AsyncClient, name: str, timeout_s: float = 40) -> Any:
    """The response when nothing more becomes of it."""

    async def ended() -> Any:
        answer = await client.get(f"/v1/responses/{name}")
        if answer.status_code != 200:
            return None
        found = answer.json()
        return found if found["status"] in OVER else None

    return await until(ended, f"{name} is over", timeout_s)


def text_of(response: Any) -> str:
    return "".join(
        part["text"]
        for item in response["output"]
        if item["type"] == "message"
        for part in item["content"]
    )


async def events(lines: AsyncIterator[str], first: int = 0) -> AsyncIterator[dict[str, Any]]:
    """The events of a stream: named as they are typed, and numbered from `first` on."""
    name = ""
    async for line in lines:
        if line.startswith("event: "):
            name = line[7:]
        elif line.startswith("data: "):
            event = json.loads(line[6:])
            assert (event["type"], event["sequence_number"]) == (name, first)
            first += 1
            yield event


async def post_stream(
    client: httpx.AsyncClient, model: str, text: Any = "hi", /, **more: Any
) -> list[dict[str, Any]]:
    """The whole stream of a new response."""
    body = {"model": model, "input": text, "stream": True, **more}
    async with client.stream("POST", "/v1/responses", json=body) as answer:
        assert answer.status_code == 200, await answer.aread()
        return [event async for event in events(answer.aiter_lines())]


async def replay(client: httpx.AsyncClient, name: str, after: int = -1) -> list[dict[str, Any]]:
    """The whole stream of a response behind one of its events."""
    query = {"stream": "true"} | ({"starting_after": str(after)} if after >= 0 else {})
    async with client.stream("GET", f"/v1/responses/{name}", params=query) as answer:
        assert answer.status_code == 200, await answer.aread()
        return [event async for event in events(answer.aiter_lines(), after + 1)]


async def upstream_calls(stack: Stack) -> int:
    return int((await stack.sim_stats())["calls"])


async def listed(client: httpx.AsyncClient, path: str, **query: Any) -> Any:
    """A page of items, oldest first."""
    answer = await client.get(path, params={"order": "asc", **query})
    assert answer.status_code == 200, answer.text
    return answer.json()


def texts(found: list[dict[str, Any]]) -> list[str]:
    """What messages say."""
    return [item["content"][0]["text"] for item in found]
