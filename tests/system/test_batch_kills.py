"""A batch while a random process is killed again and again: as if nothing had been.

`make soak-batch` runs it with 50,000 lines; the test alone is short.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import time
from typing import Any

import pytest
from nats.errors import Error as NatsError
from nats.js.errors import Error as JetStreamError

from broker.batch import states
from broker.bus import BusError
from tests.system.batches import Runner, chat
from tests.system.lines import shorten_leases
from tests.system.stack import MakeStack, Stack, until

LINES = int(os.environ.get("SOAK_LINES", "2500"))
SEED = int(os.environ.get("SOAK_SEED", "7"))
# A process is killed this often, and so often at least before the batch is over.
EVERY_S = 5.0
KILLS = 6
SLOTS, WORKERS = 16, 2
VICTIMS = ("worker0", "nats", "broker", "edge", "worker1", "broker2")


def said(rows: list[dict[str, Any]]) -> list[str]:
    """What was answered, without the ids of answers."""
    return [
        json.dumps([row["custom_id"], row["response"]["body"]["choices"], row["error"]])
        for row in rows
    ]


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


async def kill_until_over(stack: Stack, runner: Runner, batch: str) -> list[str]:
    """Who was killed, until the batch was over."""
    killed: list[str] = []
    last, give_up = time.monotonic(), time.monotonic() + 60 + LINES / 50
    for name in victims():
        while True:
            with contextlib.suppress(BusError, NatsError, JetStreamError, TimeoutError):
                record = await runner.get(batch)
                if record.status in states.FINAL:
                    return killed
                if states.done(record) >= LINES * (len(killed) + 1) / (KILLS + 1):
                    break
            assert time.monotonic() < give_up, f"it takes too long, with {killed} killed"
            if time.monotonic() > last + EVERY_S:
                break
            await asyncio.sleep(0.05)
        stack.processes[name].kill()
        start(stack, name)
        killed.append(name)
        last = time.monotonic()
    return killed


@pytest.mark.timeout(120 + LINES / 20)
async def test_r17_a_batch_whose_processes_are_killed_ends_as_if_they_were_not(
    make_stack: MakeStack,
) -> None:
    stack = await make_stack(workers=WORKERS, slots=SLOTS)
    stack.spawn("broker2", "broker")
    await shorten_leases(stack)
    runner = Runner(stack)
    # Slow enough for all of the kills, however fast the machine is.
    lines = [chat(n, "sim/tokens=4,ttft_ms=100") for n in range(LINES)]
    calm = await runner.over(await runner.create(lines), 60 + LINES / 50)
    before = (await stack.sim_stats())["calls"]
    assert before == LINES
    batch = await runner.create(lines)
    killed = await kill_until_over(stack, runner, batch)
    assert len(killed) >= KILLS
    await until(lambda: stack.bus.connected, "connected again", 30)
    record = await runner.over(batch)
    assert record.status == states.COMPLETED
    assert (record.progress.completed, record.progress.failed) == (LINES, 0)
    assert not record.error_file_id
    output = await runner.rows(record.output_file_id)
    assert [row["custom_id"] for row in output] == [f"line-{n}" for n in range(LINES)]
    assert said(output) == said(await runner.rows(calm.output_file_id))
    # Only what ran when a process was killed may have run twice.
    calls = (await stack.sim_stats())["calls"] - before
    assert LINES <= calls <= LINES + len(killed) * WORKERS * SLOTS
    assert (await stack.ledger()).total().charges == 2 * LINES
    assert (await stack.bus.js.stream_info("DLQ")).state.messages == 0
