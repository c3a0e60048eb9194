"""Batches while brokers, workers and NATS are killed: one result a line, one charge, same bytes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from typing import Any

import pytest
from nats.errors import Error as NatsError
from nats.js.errors import Error as JetStreamError

from broker.batch import states
from broker.bus import BusError
from tests.system.batches import Runner, chat
from tests.system.stack import MakeStack, Stack, until

LINES = 3000


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
    elif name.startswith("broker"):
        stack.spawn(name, "broker")
    else:
        stack.start_worker(int(name.removeprefix("worker")))


async def test_r17_a_batch_survives_kill_9_of_everything_that_runs_it(
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
    dice = random.Random(7)
    kills = 0
    for share in (0.1, 0.25, 0.4, 0.55, 0.7, 0.85):
        while await progress(runner, batch) < share * LINES:
            await asyncio.sleep(0.05)
        victims = ("broker", "broker2", "worker0", "worker1", "nats")
        name = victims[kills] if kills < len(victims) else dice.choice(victims)
        stack.processes[name].kill()
        restart(stack, name)
        kills += 1
    await until(lambda: stack.bus.connected, "connected again")
    record = await runner.over(batch, 90)
    assert record.status == states.COMPLETED
    assert (record.progress.completed, record.progress.failed) == (LINES, 0)
    output = await runner.rows(record.output_file_id)
    assert said(output) == said(await runner.rows(calm.output_file_id))
    calls = (await stack.sim_stats())["calls"] - before
    assert calls <= LINES + 2 * kills * stack.slots
    ledger = await stack.ledger()
    assert ledger.total().charges == 2 * LINES
    assert (await stack.bus.js.stream_info("DLQ")).state.messages == 0
