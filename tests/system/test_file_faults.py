"""Files while processes die and clients leave; and what large ones cost the edge: nothing."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from broker import subjects
from broker.bus.leftovers import STORES, sweep
from broker.bus.objects import Objects
from tests.system.shared import shared_stack
from tests.system.stack import KEY, Stack, until

MB = 1 << 20
BLOCK = hashlib.sha256(b"block").digest() * (MB // 32)
LARGE_MB = 300
MOST_GROWTH_MB = 40


@pytest.fixture(scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    async with shared_stack(tmp_path_factory) as stack:
        yield stack


async def form(blocks: int, sent: asyncio.Event | None = None) -> AsyncIterator[bytes]:
    """A form with a file of so many MiB; it stops short of its end where `sent` is to be set."""
    yield b'--x\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nuser_data\r\n'
    yield b'--x\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n'
    for _ in range(blocks):
        yield BLOCK
    if sent is not None:
        sent.set()
        await asyncio.Event().wait()
    yield b"\r\n--x--\r\n"


async def upload(client: httpx.AsyncClient, blocks: int, sent: asyncio.Event | None = None) -> str:
    headers = {"content-type": "multipart/form-data; boundary=x"}
    reply = await client.post("/v1/files", content=form(blocks, sent), headers=headers)
    assert reply.status_code == 200, reply.text
    assert reply.json()["bytes"] == blocks * MB
    return str(reply.json()["id"])


async def digest(client: httpx.AsyncClient, name: str) -> str:
    found = hashlib.sha256()
    async with client.stream("GET", f"/v1/files/{name}/content") as reply:
        assert reply.status_code == 200
        async for some in reply.aiter_raw():
            found.update(some)
    return found.hexdigest()


def expected(blocks: int) -> str:
    found = hashlib.sha256()
    for _ in range(blocks):
        found.update(BLOCK)
    return found.hexdigest()


async def listed(client: httpx.AsyncClient) -> list[str]:
    return [one["id"] for one in (await client.get("/v1/files")).json()["data"]]


async def objects(stack: Stack) -> set[str]:
    found = Objects(stack.bus)
    return {name for store in STORES for name in await found.names(store)}


def peak_mb(stack: Stack) -> float:
    """The most memory that the edge ever had."""
    status = Path(f"/proc/{stack.processes['edge'].popen.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


async def readers(stack: Stack) -> int:
    return (await stack.bus.js.stream_info(f"OBJ_{subjects.FILES}")).state.consumer_count


async def test_300_mb_up_and_down_leave_the_edge_as_it_was(stack: Stack) -> None:
    async with stack.client() as client:
        await digest(client, await upload(client, 4))  # what it needs once
        before = peak_mb(stack)
        name = await upload(client, LARGE_MB)
        assert await digest(client, name) == expected(LARGE_MB)
        assert peak_mb(stack) - before < MOST_GROWTH_MB
        await client.delete(f"/v1/files/{name}")


async def test_who_does_not_read_costs_the_edge_nothing(stack: Stack) -> None:
    async with stack.client() as client:
        name = await upload(client, 64)
        before = peak_mb(stack)
        request = f"GET /v1/files/{name}/content HTTP/1.1\r\nhost: x\r\n".encode()
        request += b"authorization: Bearer %b\r\n\r\n" % KEY.encode()
        port = stack.edges["edge"][0]
        connections = [await asyncio.open_connection("127.0.0.1", port) for _ in range(4)]
        for reader, writer in connections:
            writer.write(request)
            assert b" 200 " in await asyncio.wait_for(reader.readline(), 10)
        assert await digest(client, name) == expected(64)  # others read on
        assert peak_mb(stack) - before < MOST_GROWTH_MB
        for _, writer in connections:
            writer.transport.abort()

        async def nobody() -> bool:
            return await readers(stack) == 0

        await until(nobody, "nobody reads for clients that are gone")


async def test_a_client_that_leaves_in_the_middle_leaves_nothing(stack: Stack) -> None:
    there = await objects(stack)
    async with stack.client() as client:
        sent = asyncio.Event()
        task = asyncio.create_task(upload(client, 8, sent))
        await sent.wait()
        await until(lambda: more(stack, there), "bytes are in the store")
        task.cancel()
        await asyncio.wait((task,))

        async def swept() -> bool:
            return await objects(stack) == there

        await until(swept, "they are deleted")


async def test_an_edge_that_is_killed_in_the_middle_leaves_nothing_that_stays(
    stack: Stack,
) -> None:
    async with stack.client() as client:
        names, there = await listed(client), await objects(stack)
        sent = asyncio.Event()
        task = asyncio.create_task(upload(client, 8, sent))
        await sent.wait()
        await until(lambda: more(stack, there), "bytes are in the store")
        stack.processes["edge"].kill()
        task.cancel()
        await asyncio.wait((task,))
        stack.start_edge(0)
        await until(stack.ready, "the edge is back")
        assert await listed(client) == names
    assert await sweep(stack.bus) == 0  # it may still be on its way
    assert await sweep(stack.bus, older_than_s=0) == 1
    assert await objects(stack) == there


async def more(stack: Stack, there: set[str]) -> bool:
    return bool(await objects(stack) - there)


async def test_files_outlive_a_restart_of_everything(stack: Stack) -> None:
    async with stack.client() as client:
        name = await upload(client, 8)
        for process in ("edge", "broker", "worker0", "nats"):
            stack.processes[process].kill()
        stack.start_nats()
        stack.spawn("broker", "broker")
        stack.start_edge(0)
        stack.start_worker(0)
        await until(stack.ready, "everything is back")
        assert name in await listed(client)
        assert await digest(client, name) == expected(8)
