"""Records of batches: found by their owner alone, newest first, changed by one at a time."""

from __future__ import annotations

import asyncio
import contextlib
import json
from types import SimpleNamespace
from typing import cast

import pytest

from broker import subjects
from broker.batch import names, states
from broker.bus import Bus, steady
from broker.bus.batches import Batches
from broker.bus.mirror import Mirror
from broker.bus.responses import ConflictError
from broker.v1 import batch_pb2
from tests.broker.bus.server import until


@pytest.fixture
def batches(bus: Bus) -> Batches:
    return Batches(bus)


def record(number: int, owner: str = "acme") -> batch_pb2.StoredBatch:
    return batch_pb2.StoredBatch(
        id=names.new_id(1_800_000_000_000 + number, bytes(10)),
        owner=owner,
        status=states.VALIDATING,
        expires_at=1,
    )


async def test_an_owner_lists_its_batches_newest_first_and_page_by_page(batches: Batches) -> None:
    made = [record(n) for n in (3, 1, 2, 0, 4)]
    for one in (*made, record(9, "other")):
        await batches.create(one)
    ids = sorted((one.id for one in made), reverse=True)
    first, more = await batches.list("acme", limit=2)
    assert ([r.id for r in first], more) == (ids[:2], True)
    last, more = await batches.list("acme", after=ids[1], limit=3)
    assert ([r.id for r in last], more) == (ids[2:], False)
    assert await batches.get("other", ids[0]) is None
    assert await batches.list("nobody") == ([], False)


async def test_no_batch_is_missed_on_any_number_of_pages_of_subjects(
    bus: Bus, batches: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steady, "_FIRST_PAGE", 2)
    monkeypatch.setattr(steady, "_LARGEST_PAGE", 3)
    made = [record(n) for n in range(12)]
    for one in (*made, record(99, "other")):
        await batches.create(one)
    ids = sorted((one.id for one in made), reverse=True)
    listed, after, more = [], "", True
    while more:
        found, more = await batches.list("acme", after=after, limit=5)
        listed += [one.id for one in found]
        after = listed[-1]
    assert listed == ids


class _Server:
    """A server that tells so many subjects at a time; it may lose one with each answer."""

    def __init__(self, count: int, most: int, *, loses: bool = False) -> None:
        self.subjects = [f"s.{n:05}" for n in range(count)]
        self.told: list[int] = []
        self.connected = True
        self.nc = self
        self._most = most
        self._loses = loses

    async def request(self, subject: str, data: bytes, timeout: float) -> SimpleNamespace:
        assert subject == "$JS.API.STREAM.INFO.S"
        offset = json.loads(data)["offset"]
        some = self.subjects[offset : offset + self._most]
        self.told.append(len(some))
        answer = {"total": len(self.subjects), "state": {"subjects": dict.fromkeys(some, 1)}}
        if self._loses:
            del self.subjects[0]
        return SimpleNamespace(data=json.dumps(answer).encode())


async def _all_of(server: _Server, before: str = "") -> list[str]:
    found: list[str] = []
    async for page in steady.last_subjects_of(cast("Bus", server), "S", "s.*", before):
        found += page
    return found


async def test_more_subjects_than_a_server_tells_at_a_time_are_all_found_last_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(steady, "_FIRST_PAGE", 2)
    monkeypatch.setattr(steady, "_LARGEST_PAGE", 5)
    server = _Server(47, 10)
    assert await _all_of(server) == server.subjects[::-1]
    assert await _all_of(server, "s.00020") == server.subjects[:20][::-1]
    assert await _all_of(_Server(0, 10)) == []
    # Some that are there all the time are seen, though others go from page to page.
    losing = _Server(47, 10, loses=True)
    seen = await _all_of(losing)
    assert set(losing.subjects) <= set(seen)
    assert len(set(seen)) == len(seen)
    assert await steady.subjects_of(cast("Bus", server), "S", "s.*") == server.subjects


async def test_the_newest_of_many_subjects_are_found_without_reading_all() -> None:
    server = _Server(60_000, 100_000)
    async for page in steady.last_subjects_of(cast("Bus", server), "S", "s.*"):
        assert len(page) == 1000
        assert page[0] == max(server.subjects)
        break
    assert sum(server.told) == 1000


async def test_a_batch_is_active_until_it_is_let_go(bus: Bus, batches: Batches) -> None:
    one = record(1)
    mirror = Mirror(bus, subjects.BATCHES, keys="active.*")
    await mirror.start()
    await batches.create(one)
    with pytest.raises(ConflictError):
        await batches.create(one)
    key = subjects.active_key(one.id)
    await until(lambda: key in mirror.entries, "it is active")
    assert mirror.entries[key].split()[0].decode() == subjects.batch_key("acme", one.id)
    await batches.stop(one.id, states.BATCH_CANCELLED)
    assert list(await batches.stopped_since()) == [one.id]
    await batches.let_go(one.id)
    await batches.unstop(one.id)
    assert await batches.stopped_since() == {}
    await mirror.close()
    mirror = Mirror(bus, subjects.BATCHES, keys="active.*")
    await mirror.start()
    assert key not in mirror.entries
    await mirror.close()


async def test_of_many_that_change_a_record_none_is_lost(batches: Batches) -> None:
    one = record(1)
    await batches.create(one)

    def add(kept: batch_pb2.StoredBatch) -> bool:
        kept.progress.completed += 1
        return True

    await asyncio.gather(*(batches.change("acme", one.id, add) for _ in range(8)))
    kept = await batches.get("acme", one.id)
    assert kept is not None
    assert kept.progress.completed == 8
    assert await batches.change("other", one.id, add) is None


async def test_a_watcher_sees_what_becomes_of_a_batch_to_the_end(batches: Batches) -> None:
    one = record(1)
    await batches.create(one)
    seen: list[int] = []

    async def watch() -> None:
        async with contextlib.aclosing(batches.watch("acme", one.id)) as changes:
            async for kept in changes:
                seen.append(kept.status)
                if kept.status == states.VALIDATING:
                    await batches.change("acme", one.id, lambda r: states.begin(r, 5))
                if kept.status == states.IN_PROGRESS:
                    await batches.change("acme", one.id, lambda r: states.finalize(r, 6))
                if kept.status == states.FINALIZING:
                    await batches.change("acme", one.id, lambda r: states.finish(r, "a", "", 7))

    await asyncio.wait_for(watch(), 10)
    assert seen == [states.VALIDATING, states.IN_PROGRESS, states.FINALIZING, states.COMPLETED]
