"""The mirror: true to its bucket, whatever becomes of the server, and cheap to ask again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from nats.aio.msg import Msg

from broker import subjects
from broker.bus import Bus
from broker.bus import mirror as mirror_module
from broker.bus.layout import ensure_layout
from broker.bus.mirror import Mirror
from tests.broker.bus.server import NatsServer, Proxy, until

BUCKET = subjects.WORKERS


class Seen:
    def __init__(self) -> None:
        self.changes: list[tuple[str, bytes | None]] = []
        self.fails = 0

    def __call__(self, key: str, value: bytes | None) -> None:
        self.changes.append((key, value))
        if self.fails:
            self.fails -= 1
            raise ValueError("a record of another form")


@pytest.fixture
def seen() -> Seen:
    return Seen()


Make = Callable[[Bus], Mirror]


@pytest.fixture
async def make(seen: Seen) -> AsyncIterator[Make]:
    mirrors: list[Mirror] = []

    def make(bus: Bus) -> Mirror:
        mirrors.append(Mirror(bus, BUCKET, seen))
        return mirrors[-1]

    yield make
    for mirror in mirrors:
        await mirror.close()


async def put(bus: Bus, **values: bytes) -> None:
    kv = await bus.kv(BUCKET)
    for key, value in values.items():
        await kv.put(key, value)


async def consumers(bus: Bus) -> int:
    return (await bus.js.stream_info(f"KV_{BUCKET}")).state.consumer_count


async def test_it_starts_with_all_that_is_there(bus: Bus, make: Make, seen: Seen) -> None:
    everything = {f"k{n}": b"%d" % n for n in range(600)}
    await put(bus, **everything)
    mirror = make(bus)
    await mirror.start()
    assert mirror.entries == everything
    assert sorted(seen.changes) == sorted(everything.items())


async def test_an_empty_bucket_is_soon_read(bus: Bus, make: Make) -> None:
    mirror = make(bus)
    await asyncio.wait_for(mirror.start(), 2)
    assert mirror.entries == {}


async def test_it_sees_values_come_change_and_go(bus: Bus, make: Make, seen: Seen) -> None:
    mirror = make(bus)
    await mirror.start()
    kv = await bus.kv(BUCKET)
    await put(bus, a=b"1", b=b"")
    await put(bus, a=b"2")
    await kv.delete("a")
    await kv.purge("b")
    await until(lambda: len(seen.changes) == 5, "all was seen")
    assert seen.changes == [("a", b"1"), ("b", b""), ("a", b"2"), ("a", None), ("b", None)]
    assert mirror.entries == {}


async def test_the_same_value_again_is_no_change(bus: Bus, make: Make, seen: Seen) -> None:
    mirror = make(bus)
    await mirror.start()
    await put(bus, a=b"1")
    await put(bus, a=b"1", z=b"")
    await until(lambda: "z" in mirror.entries, "all was seen")
    assert seen.changes == [("a", b"1"), ("z", b"")]


async def test_a_value_that_expires_goes(bus: Bus, make: Make, seen: Seen) -> None:
    mirror = make(bus)
    await mirror.start()
    await bus.js.publish(f"$KV.{BUCKET}.a", b"1", headers={"Nats-TTL": "1"})
    await until(lambda: mirror.entries, "it came")
    await until(lambda: not mirror.entries, "it went", 4)
    assert seen.changes == [("a", b"1"), ("a", None)]


async def test_a_blind_watcher_sees_again_after_the_server_was_killed(
    nats: NatsServer, bus: Bus, make: Make
) -> None:
    await put(bus, a=b"1", b=b"1")
    mirror = make(bus)
    await mirror.start()
    nats.kill()
    await asyncio.sleep(0.2)
    await nats.start()
    other = await nats.bus("other")
    await put(other, a=b"2", c=b"2")
    await (await other.kv(BUCKET)).delete("b")
    await until(lambda: mirror.entries == {"a": b"2", "c": b"2"}, "it caught up", 3)
    await put(other, d=b"3")
    await until(lambda: "d" in mirror.entries, "and goes on", 1)
    await other.close()


async def test_what_it_shows_stays_while_the_server_is_away(
    nats: NatsServer, bus: Bus, make: Make, seen: Seen
) -> None:
    await put(bus, a=b"1")
    mirror = make(bus)
    await mirror.start()
    nats.kill()
    await asyncio.sleep(1)
    assert mirror.entries == {"a": b"1"}
    assert seen.changes == [("a", b"1")]
    await nats.start()


async def test_a_lost_bucket_is_empty_once_it_is_made_again(
    nats: NatsServer, bus: Bus, make: Make
) -> None:
    await put(bus, a=b"1")
    mirror = make(bus)
    await mirror.start()
    nats.kill()
    nats.wipe()
    await nats.start()
    await until(lambda: bus.connected, "reconnected")
    await ensure_layout(bus, 1)
    await put(bus, b=b"2")
    await until(lambda: mirror.entries == {"b": b"2"}, "it follows the new one", 5)


async def test_a_watcher_that_went_blind_without_a_sound_is_replaced_in_time(
    bus: Bus, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror_module, "_REREAD_S", 0.5)
    mirror = make(bus)
    await mirror.start()
    for info in await bus.js.consumers_info(f"KV_{BUCKET}"):
        await bus.js.delete_consumer(f"KV_{BUCKET}", info.name)
    await put(bus, a=b"1")
    await until(lambda: mirror.entries, "it sees again", 3)


async def test_a_refresh_sees_what_a_blind_watcher_missed(bus: Bus, make: Make) -> None:
    await put(bus, gone=b"1")
    mirror = make(bus)
    await mirror.start()
    await asyncio.sleep(0.3)
    for info in await bus.js.consumers_info(f"KV_{BUCKET}"):
        await bus.js.delete_consumer(f"KV_{BUCKET}", info.name)
    await put(bus, a=b"1")
    await (await bus.kv(BUCKET)).delete("gone")
    await asyncio.wait_for(mirror.refresh(), 1)
    assert mirror.entries == {"a": b"1"}


async def test_a_storm_of_refreshes_is_a_few_reads_and_all_of_them_end(
    bus: Bus, make: Make
) -> None:
    mirror = make(bus)
    await mirror.start()
    reads = 0

    async def count(_message: Msg) -> None:
        nonlocal reads
        reads += 1

    await bus.nc.subscribe(f"$JS.API.CONSUMER.CREATE.KV_{BUCKET}.>", cb=count)
    await asyncio.sleep(0.3)
    pending: set[asyncio.Task[None]] = set()
    for _ in range(1000):
        pending.add(asyncio.create_task(mirror.refresh()))
        await asyncio.sleep(0.001)
    _done, late = await asyncio.wait(pending, timeout=1)
    assert not late
    assert reads < 12
    assert await consumers(bus) <= 2


async def test_a_refresh_ends_though_the_server_is_silent(
    far: Bus, proxy: Proxy, make: Make
) -> None:
    mirror = make(far)
    await mirror.start()
    await asyncio.sleep(0.3)
    proxy.stall()
    await asyncio.wait_for(mirror.refresh(), 3)
    proxy.flow()


async def test_reading_again_leaves_no_consumers_behind(
    bus: Bus, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror_module, "_REREAD_S", 0.05)
    mirror = make(bus)
    await mirror.start()
    await asyncio.sleep(1)
    assert await consumers(bus) <= 2
    await mirror.close()

    async def none() -> bool:
        return await consumers(bus) == 0

    await until(none, "closing leaves none")


async def test_a_snapshot_is_never_taken_for_empty_because_it_is_late(
    bus: Bus, make: Make, monkeypatch: pytest.MonkeyPatch, seen: Seen
) -> None:
    """The consumer says that nothing is pending once all was sent, not once it has arrived."""
    monkeypatch.setattr(mirror_module, "_REREAD_S", 0.01)
    await put(bus, a=b"1", b=b"1")
    mirrors = [make(bus) for _ in range(10)]
    await asyncio.gather(*(mirror.start() for mirror in mirrors))
    await asyncio.sleep(8)
    assert len(seen.changes) == 20
    assert (None) not in [value for _, value in seen.changes]


async def test_a_callback_that_fails_does_not_blind_the_mirror(
    bus: Bus, make: Make, seen: Seen
) -> None:
    mirror = make(bus)
    await mirror.start()
    seen.fails = 1
    await put(bus, bad=b"1")
    await put(bus, good=b"1")
    await until(lambda: "good" in mirror.entries, "it goes on", 2)
    assert mirror.entries == {"bad": b"1", "good": b"1"}
