"""A batch while a random process is killed again and again: as if nothing had been.

`make soak-batch` runs it with 50,000 lines; the test alone is short.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import random
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from nats.errors import Error as NatsError
from nats.js.errors import Error as JetStreamError

from tests.system.batches import CHAT, chat
from tests.system.lines import shorten_leases
from tests.system.stack import MakeStack, Stack, until

LINES = int(os.environ.get("SOAK_LINES", "2500"))
SEED = int(os.environ.get("SOAK_SEED", "7"))
# A process is killed this often, and so often at least before the batch is over.
EVERY_S = 5.0
KILLS = 6
SLOTS, WORKERS = 16, 2
POLL_S = 0.1
OVER = {"completed", "failed", "expired", "cancelled"}
VICTIMS = ("worker0", "nats", "broker", "edge", "worker1", "broker2")


class Api:
    """The batch API as a client has it that knows both edges, and asks the other one when one is gone."""

    def __init__(self, *edges: httpx.AsyncClient) -> None:
        self.broken = 0
        self._edges = itertools.cycle(edges)

    async def ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        """What was answered, once an edge is there and NATS is; anything but that fails."""

        async def answered() -> httpx.Response | None:
            try:
                answer = await next(self._edges).request(method, path, **more)
            except httpx.TransportError:
                self.broken += 1
                return None
            if answer.status_code == 503:
                assert answer.json()["error"]["code"] == "broker_unavailable", answer.text
                return None
            assert answer.status_code == 200, answer.text
            return answer

        found: httpx.Response = await until(answered, f"{method} {path} is answered")
        return found

    async def create(self, lines: list[dict[str, Any]]) -> str:
        data = "".join(json.dumps(line) + "\n" for line in lines).encode()
        form = {"data": {"purpose": "batch"}, "files": {"file": ("in.jsonl", data)}}
        file = (await self.ask("POST", "/v1/files", **form)).json()
        asked = {"input_file_id": file["id"], "endpoint": CHAT, "completion_window": "24h"}
        return str((await self.ask("POST", "/v1/batches", json=asked)).json()["id"])

    async def get(self, batch: str) -> dict[str, Any]:
        return dict((await self.ask("GET", f"/v1/batches/{batch}")).json())

    async def over(self, batch: str, timeout_s: float = 60) -> dict[str, Any]:
        async with asyncio.timeout(timeout_s):
            while (found := await self.get(batch))["status"] not in OVER:
                await asyncio.sleep(POLL_S)
        return found

    async def rows(self, file: str) -> list[dict[str, Any]]:
        content = (await self.ask("GET", f"/v1/files/{file}/content")).text
        return [json.loads(row) for row in content.splitlines()]


@pytest.fixture
async def stack(make_stack: MakeStack) -> Stack:
    stack = await make_stack(workers=WORKERS, edges=2, slots=SLOTS)
    stack.spawn("broker2", "broker")
    await shorten_leases(stack)
    return stack


@pytest.fixture
async def api(stack: Stack) -> AsyncIterator[Api]:
    async with contextlib.AsyncExitStack() as clients:
        yield Api(*[await clients.enter_async_context(stack.client(name)) for name in stack.edges])


def lasting(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows without what is new in each answer: ids, and when it was."""
    for row in rows:
        for place, name in (
            (row, "id"),
            (row["response"], "request_id"),
            (row["response"]["body"], "id"),
            (row["response"]["body"], "created"),
        ):
            assert place.pop(name), name
    return rows


def start(stack: Stack, name: str) -> None:
    if name == "nats":
        stack.start_nats()
    elif name == "edge":
        stack.start_edge(0)
    elif name.startswith("worker"):
        stack.start_worker(int(name[-1]))
    else:
        stack.spawn(name, "broker")


def victims() -> Any:
    """All of them in a random order, then any."""
    chance = random.Random(SEED)
    yield from chance.sample(VICTIMS, len(VICTIMS))
    while True:
        yield chance.choice(VICTIMS)


async def kill_until_over(stack: Stack, api: Api, batch: str) -> list[str]:
    """Who was killed, until the batch was over."""
    killed: list[str] = []
    last, give_up = time.monotonic(), time.monotonic() + 60 + LINES / 50
    for name in victims():
        while True:
            found = await api.get(batch)
            if found["status"] in OVER:
                return killed
            counts = found["request_counts"]
            done = counts["completed"] + counts["failed"]
            if done >= LINES * (len(killed) + 1) / (KILLS + 1):
                break
            assert time.monotonic() < give_up, f"it takes too long, with {killed} killed"
            if time.monotonic() > last + EVERY_S:
                break
            # A worker that begins says how long they are.
            with contextlib.suppress(NatsError, JetStreamError, TimeoutError):
                await shorten_leases(stack)
            await asyncio.sleep(POLL_S)
        stack.processes[name].kill()
        start(stack, name)
        killed.append(name)
        last = time.monotonic()
    return killed


@pytest.mark.timeout(120 + LINES / 20)
async def test_r17_a_batch_whose_processes_are_killed_ends_as_if_they_were_not(
    stack: Stack, api: Api
) -> None:
    # Slow enough for all of the kills, however fast the machine is.
    lines = [chat(n, "sim/tokens=4,ttft_ms=100") for n in range(LINES)]
    calm = await api.over(await api.create(lines), 60 + LINES / 50)
    before = (await stack.sim_stats())["calls"]
    assert before == LINES
    batch = await api.create(lines)
    killed = await kill_until_over(stack, api, batch)
    assert len(killed) >= KILLS
    assert api.broken, "nobody asked the edge while it was gone"
    await until(lambda: stack.bus.connected, "connected again", 30)
    found = await api.over(batch)
    assert found["status"] == "completed"
    assert found["request_counts"] == {"total": LINES, "completed": LINES, "failed": 0}
    assert found["error_file_id"] is None
    output = lasting(await api.rows(found["output_file_id"]))
    assert [row["custom_id"] for row in output] == [f"line-{n}" for n in range(LINES)]
    assert output == lasting(await api.rows(calm["output_file_id"]))
    # Only what ran when a process was killed may have run twice.
    calls = (await stack.sim_stats())["calls"] - before
    assert LINES <= calls <= LINES + len(killed) * WORKERS * SLOTS
    assert (await stack.ledger()).total().charges == 2 * LINES
    assert (await stack.bus.js.stream_info("DLQ")).state.messages == 0
