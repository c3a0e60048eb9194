"""Batches while processes are killed: one result a line, one charge, the same answers."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

import pytest
from nats.errors import Error as NatsError
from nats.js.errors import Error as JetStreamError

from broker.batch import states
from broker.bus import BusError
from tests.system.batches import CHAT, Runner, chat
from tests.system.lines import shorten_leases
from tests.system.stack import MakeStack, Stack, until

LINES = 1500


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def said(rows: list[dict[str, Any]]) -> list[str]:
    """What was answered, without the ids of answers."""
    return [
        json.dumps([row["custom_id"], row["response"]["body"]["choices"], row["error"]])
        for row in rows
    ]


async def progress(runner: Runner, batch: str) -> int:
    with contextlib.suppress(BusError, NatsError, JetStreamError, TimeoutError):
        return states.done(await runner.get(batch))
    return -1


def restart(stack: Stack, name: str) -> None:
    if name == "nats":
        stack.start_nats()
    else:
        stack.spawn(name, "broker")


async def test_r17_a_batch_survives_kill_9_of_brokers_and_nats(
    make_stack: MakeStack,
) -> None:
    stack = await make_stack(workers=2)
    stack.spawn("broker2", "broker")
    runner = Runner(stack)
    lines = [chat(n, "sim/tokens=4,ttft_ms=20") for n in range(LINES)]
    calm = await runner.over(await runner.create(lines))
    before = (await stack.sim_stats())["calls"]
    assert before == LINES
    batch = await runner.create(lines)
    victims = ("broker", "broker2", "nats", "broker")
    for number, name in enumerate(victims):
        while await progress(runner, batch) < LINES * number / len(victims):
            await asyncio.sleep(0.05)
        stack.processes[name].kill()
        restart(stack, name)
    await until(lambda: stack.bus.connected, "connected again")
    record = await runner.over(batch, 90)
    assert record.status == states.COMPLETED
    assert (record.progress.completed, record.progress.failed) == (LINES, 0)
    output = await runner.rows(record.output_file_id)
    assert said(output) == said(await runner.rows(calm.output_file_id))
    calls = (await stack.sim_stats())["calls"] - before
    assert calls <= LINES + 2 * len(victims) * stack.slots
    ledger = await stack.ledger()
    assert ledger.total().charges == 2 * LINES
    assert (await stack.bus.js.stream_info("DLQ")).state.messages == 0


async def test_a_batch_survives_kill_9_of_the_edge_that_made_it_and_of_a_worker(
    make_stack: MakeStack,
) -> None:
    stack = await make_stack(workers=2, edges=2, slots=16)
    await shorten_leases(stack)
    data = "".join(json.dumps(chat(n, "sim/echo,ttft_ms=200")) + "\n" for n in range(LINES))
    async with stack.client() as client:
        form = {"file": ("in.jsonl", data.encode())}
        file = (await client.post("/v1/files", data={"purpose": "batch"}, files=form)).json()
        asked = {"input_file_id": file["id"], "endpoint": CHAT, "completion_window": "24h"}
        made = await client.post("/v1/batches", json=asked, headers={"idempotency-key": "mine"})
        batch = made.json()["id"]
    stack.processes["edge"].kill()
    async with stack.client("edge1") as client:

        async def look() -> dict[str, Any]:
            found: dict[str, Any] = (await client.get(f"/v1/batches/{batch}")).json()
            return found

        async def some() -> bool:
            done: int = (await look())["request_counts"]["completed"]
            return done > LINES / 4

        async def over() -> bool:
            return str((await look())["status"]) == "completed"

        await until(some, "lines ended", 60)
        stack.processes["worker0"].kill()
        # What is asked again is what was made, and runs once.
        again = await client.post("/v1/batches", json=asked, headers={"idempotency-key": "mine"})
        assert again.json()["id"] == batch
        await until(over, "the batch is over", 90)
        record = await look()
        counts = record["request_counts"]
        assert (counts["total"], counts["completed"], counts["failed"]) == (LINES, LINES, 0)
        output = await client.get(f"/v1/files/{record['output_file_id']}/content")
        results = await client.get(f"/v1/batches/{batch}/results")
    assert results.content == output.content
    rows = [json.loads(row) for row in output.text.splitlines()]
    answers = [(row["custom_id"], _text(row)) for row in rows]
    assert answers == [(f"line-{n}", f"say {n}") for n in range(LINES)]
    # Only what the lost worker was running was asked for again.
    assert (await stack.sim_stats())["calls"] <= LINES + stack.slots
    assert (await stack.ledger()).total().charges == LINES


def _text(row: dict[str, Any]) -> str:
    text: str = row["response"]["body"]["choices"][0]["message"]["content"]
    return text
