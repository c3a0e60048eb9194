"""Batches from their input to their files, on real workers."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest

from broker.batch import states
from broker.v1 import batch_pb2
from tests.system.batches import Runner, chat
from tests.system.shared import shared_stack
from tests.system.stack import Stack


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def shared(
    tmp_path_factory: pytest.TempPathFactory, anyio_backend: str
) -> AsyncIterator[Stack]:
    async with shared_stack(tmp_path_factory) as stack:
        yield stack


@pytest.fixture
async def runner(shared: Stack) -> Runner:
    await shared.reset_sim()
    return Runner(shared)


async def test_every_line_is_answered_once_in_the_order_of_the_input(runner: Runner) -> None:
    batch = await runner.create([chat(n) for n in range(700)])
    record = await runner.over(batch)
    assert record.status == states.COMPLETED
    assert (record.progress.total, record.progress.completed) == (700, 700)
    rows = await runner.rows(record.output_file_id)
    assert [row["custom_id"] for row in rows] == [f"line-{n}" for n in range(700)]
    assert not record.error_file_id
    assert record.progress.usage.output_tokens > 700
    stats = await runner.stack.sim_stats()
    assert stats["calls"] == 700, stats
    ledger = await runner.stack.ledger()
    assert ledger.total().charges == 700
