"""Files of a batch: every line once and in order, whatever goes missing, in flat memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from broker.batch import states
from broker.batch.chunks import Chunk, Raw
from broker.batching import reading
from broker.batching.finish import write
from broker.batching.run import Run
from broker.bus.batches import KeptBatch
from broker.v1 import batch_pb2, file_pb2, stored_pb2

LINES = 60


class World:
    """Results of lines, a store that answers with so many of them at most, and files."""

    def __init__(self, most: int = 1000) -> None:
        self.most = most
        self.found: dict[int, batch_pb2.LineResult] = {
            number: batch_pb2.LineResult(
                number=number, custom_id=f"c{number}", status=200, json=b"{}"
            )
            for number in range(1, LINES + 1)
        }
        self.widest = 0
        self.written: dict[str, bytes] = {}
        self.stored = batch_pb2.StoredBatch()
        self.expires: set[tuple[int, int]] = set()

    async def update(self, kept: KeptBatch) -> None:
        self.stored = kept.record

    async def range(self, batch: str, numbers: Sequence[int]) -> dict[int, batch_pb2.LineResult]:
        return {n: self.found[n] for n in numbers if n in self.found}

    async def some(
        self, batch: str, numbers: Sequence[int]
    ) -> tuple[dict[int, batch_pb2.LineResult], bool]:
        found = await self.range(batch, numbers)
        some = dict(list(found.items())[-self.most :])
        self.widest = max(self.widest, len(some))
        return some, len(found) > len(some)

    async def present(self, _batch: str) -> bytearray:
        bits = bytearray(LINES // 8 + 1)
        for number in self.found:
            bits[number >> 3] |= 1 << (number & 7)
        return bits

    async def get(self, *_: object) -> None:
        """Neither a file nor a large body."""

    async def put(self, file: file_pb2.StoredFile, pieces: AsyncIterator[bytes]) -> None:
        self.expires.add((file.created_at, file.expires_at))
        self.written[file.filename.rpartition("_")[2]] = b"".join([piece async for piece in pieces])

    def names(self, kind: str = "output.jsonl") -> list[str]:
        """Whose rows a file has."""
        return [
            row.partition(b'"custom_id":"')[2].partition(b'"')[0].decode()
            for row in self.written.get(kind, b"").splitlines()
        ]


def run_of(world: World) -> Run:
    record = batch_pb2.StoredBatch(
        id="batch_" + "0" * 32, owner="acme", status=states.FINALIZING, in_progress_at=1
    )
    services: Any = SimpleNamespace(
        batches=world, results=world, files=world, blobs=world, now=lambda: 5
    )
    return Run(services, KeptBatch(record, 1))


@pytest.fixture(autouse=True)
def input_gone_behind(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Where the input ends, and the line behind which it is gone."""
    told = {"line": LINES}

    async def chunks(run: Run, *_: object) -> AsyncIterator[Chunk]:
        for number in range(1, LINES + 1):
            if number > told["line"]:
                raise reading.InputGoneError(run.id)
            data = b'{"custom_id":"c%d"}\n' % number
            yield Chunk((Raw(number, 0, data),), 0, number, 1, number + 1)

    monkeypatch.setattr(reading, "chunks", chunks)
    return told


ALL = [f"c{number}" for number in range(1, LINES + 1)]


@pytest.mark.parametrize("gone_behind", [0, 1, 9, 40, 59])
async def test_an_input_that_goes_while_its_files_are_written_doubles_no_row(
    input_gone_behind: dict[str, int], gone_behind: int
) -> None:
    input_gone_behind["line"] = gone_behind
    world = World()
    await write(run_of(world))
    assert world.names() == ALL


@pytest.mark.parametrize("most", [1, 3, 1000])
async def test_results_that_are_large_together_are_read_apart_and_in_order(most: int) -> None:
    world = World(most)
    del world.found[7]
    await write(run_of(world))
    assert world.names() == [name for name in ALL if name != "c7"]
    assert world.names("error.jsonl") == ["c7"]
    assert world.widest <= most


async def test_an_answer_whose_body_is_lost_is_an_error_and_no_empty_answer() -> None:
    world = World()
    world.found[3].object.CopyFrom(stored_pb2.StoredObject(name="gone", size=9))
    run = run_of(world)
    run.record.progress.completed = run._stored.completed = LINES
    await write(run)
    counts = world.stored.progress
    assert (counts.completed, counts.failed) == (LINES - 1, 1)
    assert world.names("error.jsonl") == ["c3"]
    assert b'"response":null,"error":{"code":"answer_lost"' in world.written["error.jsonl"]
    assert b'"body":null' not in world.written["output.jsonl"]


@pytest.mark.parametrize(("asked", "expires"), [(0, 0), (3600, 4600)])
async def test_both_files_are_kept_as_long_as_was_asked_for(asked: int, expires: int) -> None:
    world = World()
    del world.found[7]
    run = run_of(world)
    run.record.finalizing_at, run.record.output_expires_after_s = 1000, asked
    await write(run)
    assert set(world.written) == {"output.jsonl", "error.jsonl"}
    assert world.expires == {(1000, expires)}
