"""Batches while brokers and NATS are killed: one result a line, one charge, the same answers.

Killed workers are with the batch lane's own tests: their lines come back after a minute.
"""

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
from tests.system.batches import Runner, chat
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
