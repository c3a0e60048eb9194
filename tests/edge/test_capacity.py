"""How the places stand is asked for by all who look together, and by nobody else."""

from __future__ import annotations

import asyncio

import pytest

from broker.batch import states
from broker.bus import BusError
from broker.standing import Standing
from broker.v1 import batch_pb2
from edge import capacity
from edge.capacity import Capacity

HERE = Standing("p", "k", "m", 12, why="found", running=3)


class Leader:
    """Answers, or does not."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked = 0
        self.away = False
        monkeypatch.setattr(capacity, "read_standings", self.read)
        monkeypatch.setattr(capacity, "_FRESH_S", 0.05)

    async def read(self, _bus: object) -> list[Standing]:
        self.asked += 1
        await asyncio.sleep(0.01)
        if self.away:
            raise BusError("away")
        return [HERE]


def batch(status: batch_pb2.BatchStatus.ValueType, *models: str) -> batch_pb2.StoredBatch:
    record = batch_pb2.StoredBatch(status=status)
    for model in models:
        record.progress.places.add(provider="p", model=model)
    return record


async def test_many_who_look_at_a_time_are_one_question(monkeypatch: pytest.MonkeyPatch) -> None:
    leader = Leader(monkeypatch)
    known = Capacity(None)  # type: ignore[arg-type]
    assert await asyncio.gather(*(known.all() for _ in range(50))) == [[HERE]] * 50
    assert leader.asked == 1
    leader.away = True
    await asyncio.sleep(0.06)
    assert await known.all() == [HERE]
    assert leader.asked == 2


async def test_what_cannot_be_read_again_is_told_no_longer_after_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    leader = Leader(monkeypatch)
    monkeypatch.setattr(capacity, "_KEPT_S", 0.1)
    known = Capacity(None)  # type: ignore[arg-type]
    assert await known.all() == [HERE]
    leader.away = True
    await asyncio.sleep(0.2)
    assert await known.all() == []
    leader.away = False
    await asyncio.sleep(0.06)
    assert await known.all() == [HERE]


async def test_a_batch_has_those_of_its_models_while_it_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    leader = Leader(monkeypatch)
    known = Capacity(None)  # type: ignore[arg-type]
    for over in (batch(states.COMPLETED, "m"), batch(states.VALIDATING)):
        assert await known.of(over) == []
    assert leader.asked == 0
    (one,) = await known.of(batch(states.IN_PROGRESS, "m", "other"))
    assert (one.model, one.key, one.slots, one.running) == ("m", "", 12, 3)
