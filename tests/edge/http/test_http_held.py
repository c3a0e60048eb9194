"""Bodies that are too much for the edge together: refused before or while they are read."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import httpx
import pytest

from tests.edge.http.standin import (
    AUTHORIZED,
    COMPLETED,
    FINISHED,
    SECRET,
    Edge,
    Engine,
    Start,
    body,
    started,
    text,
    until,
)

CHAT = "/v1/chat/completions"
LIMITS: dict[str, object] = {"held_bytes": 100_000, "share_per_key": 1.0}
JSON = {"content-type": "application/json"}


def padded(size: int) -> bytes:
    content = json.dumps(body()).encode()
    return content + b" " * (size - len(content))


async def in_pieces(content: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(content), 10_000):
        yield content[at : at + 10_000]


def shown(edge: Edge) -> float:
    return edge.metric("millrace_held_bytes")


@pytest.fixture
def answer_now() -> asyncio.Event:
    return asyncio.Event()


@pytest.fixture
async def edge(start: Start, answer_now: asyncio.Event) -> Edge:
    """Its engine answers nobody before it is told to."""
    return await start(Engine([answer_now, [started(), text("Hi")], [FINISHED, COMPLETED]]), LIMITS)


async def post(client: httpx.AsyncClient, edge: Edge, content: object) -> httpx.Response:
    return await client.post(edge.url + CHAT, content=content, headers=AUTHORIZED | JSON)  # type: ignore[arg-type]


@pytest.mark.parametrize("chunked", [False, True])
async def test_bodies_are_refused_beside_what_is_held_and_taken_when_that_is_answered(
    edge: Edge, client: httpx.AsyncClient, answer_now: asyncio.Event, *, chunked: bool
) -> None:
    first = asyncio.create_task(post(client, edge, padded(70_000)))
    await until(lambda: edge.engine.exchanges)
    assert shown(edge) == 70_000
    second = padded(50_000)
    answer = await post(client, edge, in_pieces(second) if chunked else second)
    assert answer.status_code == 429
    assert answer.json()["error"]["code"] == "bytes_full"
    assert answer.headers["retry-after"] == "1"
    assert shown(edge) == 70_000
    answer_now.set()
    assert (await first).status_code == 200
    assert (await post(client, edge, in_pieces(second) if chunked else second)).status_code == 200
    assert shown(edge) == 0


async def test_a_body_is_refused_by_its_length_before_it_is_sent(
    edge: Edge, client: httpx.AsyncClient, answer_now: asyncio.Event
) -> None:
    first = asyncio.create_task(post(client, edge, padded(70_000)))
    await until(lambda: edge.engine.exchanges)
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {SECRET}\r\n"
    writer.write(f"{head}Content-Type: application/json\r\nContent-Length: 50000\r\n\r\n".encode())
    async with asyncio.timeout(10):
        assert b" 429 " in await reader.readline()
    writer.close()
    answer_now.set()
    await first


async def test_what_is_still_arriving_counts_until_its_client_leaves(
    edge: Edge, client: httpx.AsyncClient, answer_now: asyncio.Event
) -> None:
    answer_now.set()
    _, writer = await asyncio.open_connection("127.0.0.1", edge.port)
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {SECRET}\r\n"
    writer.write(
        f"{head}Content-Type: application/json\r\nContent-Length: 90000\r\n\r\n{{".encode()
    )
    await until(lambda: shown(edge) == 90_000)
    assert (await post(client, edge, padded(20_000))).status_code == 429
    writer.close()
    await until(lambda: shown(edge) == 0)
    assert (await post(client, edge, padded(20_000))).status_code == 200


async def test_forms_count_too(
    edge: Edge, client: httpx.AsyncClient, answer_now: asyncio.Event
) -> None:
    first = asyncio.create_task(post(client, edge, padded(70_000)))
    await until(lambda: edge.engine.exchanges)
    answer = await client.post(
        edge.url + "/v1/audio/transcriptions",
        data={"model": "sim/sim-1"},
        files={"file": ("a.wav", b"x" * 50_000)},
        headers=AUTHORIZED,
    )
    assert answer.status_code == 429
    answer_now.set()
    await first
    assert shown(edge) == 0
