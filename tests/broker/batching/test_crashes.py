"""A leader that dies behind any of its writes: the next one ends the batch as if nothing was."""

from __future__ import annotations

import asyncio

import pytest

from broker.batch import names, states
from broker.bus import Bus
from broker.bus.ending import end
from broker.bus.usage import usage_groups
from broker.ledger import Ledger
from broker.v1 import batch_pb2
from tests.broker.batching.leading import Author, Leader, Worker
from tests.broker.bus.server import until


def line(number: int, text: str = "") -> bytes:
    return (
        b'{"custom_id":"c%d","method":"POST","url":"/v1/chat/completions",'
        b'"body":{"model":"m","user":"%b","messages":[{"role":"user","content":"%d"}]}}\n'
        % (number, text.encode(), number)
    )


def lines(count: int) -> bytes:
    """Every 50th is bad, every 40th like the one before, some blank."""
    made = []
    for n in range(1, count + 1):
        if n % 60 == 0:
            made.append(b"\n")
        elif n % 40 == 0:
            made.append(line(n - 1).replace(b'"c%d"' % (n - 1), b'"c%d"' % n))
        elif n % 70 == 0:
            made.append(line(n).replace(b'"model":"m"', b'"model":"nobody"'))
        else:
            made.append(line(n, "bad" if n % 50 == 0 else ""))
    return b"".join(made)


OPTIONS = batch_pb2.BatchOptions(dedupe=True, mixed_models=True)


async def charges(bus: Bus) -> int:
    ledger = Ledger()
    async for group in usage_groups(bus):
        ledger.apply(group)
    return ledger.total().charges


class Ends:
    """What a batch ended with, without what is its own."""

    def __init__(self, author: Author, record: batch_pb2.StoredBatch) -> None:
        self.author = author
        self.record = record

    async def files(self) -> tuple[bytes, bytes]:
        own = self.record.id.removeprefix(names.PREFIX).encode()
        output = await self.author.content(self.record.output_file_id)
        errors = await self.author.content(self.record.error_file_id)
        return output.replace(own, b"ID"), errors.replace(own, b"ID")


async def run(
    bus: Bus, monkeypatch: pytest.MonkeyPatch, worker: Worker, dies_behind: int
) -> tuple[Ends, list[str]]:
    """One batch, whose first leader dies; the writes of the first and what it all ended with."""
    author = Author(bus)
    batch = await author.create(lines(300), options=OPTIONS)
    async with Leader(bus, monkeypatch, dies_behind) as leader:

        async def ended() -> bool:
            return leader.dead.is_set() or (await author.over(batch) and await author.let_go(batch))

        await until(ended, "it is over, or the leader dead", 30)
    writes = leader.writes
    if leader.dead.is_set():
        async with Leader(bus, monkeypatch):
            await until(lambda: author.over(batch), f"over in spite of {writes}", 30)
            await until(lambda: author.let_go(batch), f"let go in spite of {writes}", 30)
    return Ends(author, await author.get(batch)), writes


async def test_a_leader_may_die_behind_any_of_its_writes(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = Worker(bus)
    working = asyncio.create_task(worker.work())
    first, writes = await run(bus, monkeypatch, worker, 0)
    expected = await first.files()
    progress = first.record.progress
    assert first.record.status == states.COMPLETED
    assert (progress.total, progress.completed, progress.failed) == (295, 288, 7)
    asked = len(worker.asked)
    per_batch = await charges(bus)
    assert expected[0].count(b"\n") == 288
    assert {"publish", "update", "write", "put", "purge", "let_go", "put_as"} <= set(writes)
    kinds: set[tuple[str, int]] = set()
    batches = 1
    for number, name in enumerate(writes, 1):
        # Of writes of one kind the first three, and the last.
        if len([k for k in kinds if k[0] == name]) >= 3 and name in writes[number:]:
            continue
        kinds.add((name, number))
        ends, _ = await run(bus, monkeypatch, worker, number)
        batches += 1
        assert await ends.files() == expected, f"after {writes[:number]}"
        assert ends.record.status == states.COMPLETED
        assert ends.record.progress.completed == 288
        assert ends.record.progress.usage == progress.usage
    assert batches > 10
    assert set(worker.asked.values()) == {1}
    assert len(worker.asked) == asked * batches
    assert await charges(bus) == per_batch * batches
    await end(working)
