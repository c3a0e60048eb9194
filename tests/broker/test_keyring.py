"""API keys in a real NATS: created once, found, revoked everywhere, never stored as they are."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from broker import keys
from broker.bus import Bus, BusError, connect
from broker.bus.keyring import Keyring, UnknownKeyError
from broker.bus.layout import ensure_layout
from broker.embedded import EmbeddedNats
from broker.keys import KeyRecord

Server = Callable[[], subprocess.Popen[bytes]]


@pytest.fixture
def nats(tmp_path: Path) -> EmbeddedNats:
    return EmbeddedNats(tmp_path)


@pytest.fixture
def start(nats: EmbeddedNats) -> Iterator[Server]:
    """Starts the server; called again, starts it again."""
    with contextlib.ExitStack() as ending:

        def run() -> subprocess.Popen[bytes]:
            quiet = subprocess.DEVNULL
            process = subprocess.Popen(nats.prepare(), stdout=quiet, stderr=quiet)
            ending.callback(process.wait)
            ending.callback(process.kill)
            return process

        yield run


async def ready(nats: EmbeddedNats, process: subprocess.Popen[bytes]) -> None:
    await until(lambda: nats.ready(process.pid))


async def until(claim: Callable[[], bool], seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not claim():
            await asyncio.sleep(0.005)


@pytest.fixture
async def bus(nats: EmbeddedNats, start: Server) -> AsyncIterator[Bus]:
    await ready(nats, start())
    bus = await connect(nats.settings(), name="test")
    await ensure_layout(bus, 1)
    yield bus
    await bus.close()


@contextlib.asynccontextmanager
async def watching(keyring: Keyring) -> AsyncIterator[list[tuple[str, KeyRecord | None]]]:
    seen: list[tuple[str, KeyRecord | None]] = []
    task = asyncio.create_task(keyring.watch(lambda *change: seen.append(change)))
    try:
        yield seen
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_a_created_key_is_found_by_its_digest_and_stored_without_its_secret(bus: Bus) -> None:
    keyring = Keyring(bus)
    secret, record = await keyring.create("ci", tenant="acme", weight=3)
    assert record.weight == 3
    assert (record.name, record.tenant, record.revoked) == ("ci", "acme", False)
    assert await keyring.get(keys.digest(secret)) == record
    assert await keyring.get(keys.digest("mr-other")) is None
    stored = (await (await bus.kv("keys")).get(keys.digest(secret))).value
    assert stored is not None
    assert secret.removeprefix("mr-").encode() not in stored


async def test_two_created_keys_differ(bus: Bus) -> None:
    keyring = Keyring(bus)
    made = [await keyring.create("same name") for _ in range(2)]
    assert made[0][0] != made[1][0]
    assert await keyring.list() == [record for _, record in made]


async def test_adding_a_chosen_key_again_leaves_it_as_it_was(bus: Bus) -> None:
    keyring = Keyring(bus)
    first = await keyring.add("mr-chosen", "first")
    assert await keyring.add("mr-chosen", "second") == first
    assert await keyring.list() == [first]


async def test_adding_a_revoked_key_does_not_bring_it_back(bus: Bus) -> None:
    keyring = Keyring(bus)
    record = await keyring.add("mr-chosen", "first")
    await keyring.revoke(record.id)
    assert (await keyring.add("mr-chosen", "again")).revoked


async def test_many_edges_adding_one_key_at_a_time_agree_on_one_record(bus: Bus) -> None:
    records = await asyncio.gather(*(Keyring(bus).add("mr-1", str(n)) for n in range(8)))
    assert all(record == records[0] for record in records)


async def test_a_revoked_key_stays_listed_and_is_revoked_once(bus: Bus) -> None:
    keyring = Keyring(bus)
    secret, record = await keyring.create("ci")
    revoked = await keyring.revoke(record.id)
    assert revoked.revoked
    assert revoked.revoked_at is not None
    assert revoked.revoked_at >= record.created_at
    assert await keyring.get(keys.digest(secret)) == revoked
    assert await keyring.revoke(record.id) == revoked
    assert await keyring.list() == [revoked]


async def test_revoking_what_does_not_exist_says_so(bus: Bus) -> None:
    with pytest.raises(UnknownKeyError, match="key_nope"):
        await Keyring(bus).revoke("key_nope")


async def test_an_empty_bucket_lists_nothing_at_once(bus: Bus) -> None:
    async with asyncio.timeout(2):
        assert await Keyring(bus).list() == []


async def test_a_record_that_nobody_can_read_hides_no_other(bus: Bus) -> None:
    keyring = Keyring(bus)
    await (await bus.kv("keys")).put("f" * 64, b"not a record")
    _, record = await keyring.create("ci")
    assert await keyring.list() == [record]
    assert await keyring.get("f" * 64) is None


async def test_a_watcher_hears_of_present_keys_and_of_every_change(bus: Bus) -> None:
    keyring = Keyring(bus)
    secret, record = await keyring.create("before")
    async with watching(Keyring(bus)) as seen:
        await until(lambda: (keys.digest(secret), record) in seen)
        later, added = await keyring.create("after")
        await until(lambda: (keys.digest(later), added) in seen)
        revoked = await keyring.revoke(record.id)
        await until(lambda: (keys.digest(secret), revoked) in seen)
        await (await bus.kv("keys")).delete(keys.digest(later))
        await until(lambda: (keys.digest(later), None) in seen)


async def test_a_revocation_is_heard_of_soon_after_the_server_was_killed(
    bus: Bus, nats: EmbeddedNats, start: Server
) -> None:
    keyring = Keyring(bus)
    secret, record = await keyring.create("ci")
    async with watching(Keyring(bus)) as seen:
        await until(lambda: bool(seen))
        pid = int(next(nats.folder.glob("nats-server_*.ports")).stem.rpartition("_")[2])
        os.kill(pid, signal.SIGKILL)
        await until(lambda: not bus.connected)
        await ready(nats, start())
        await until(lambda: bus.connected)
        revoked = await keyring.revoke(record.id)
        # A watcher left to itself stays blind for more than 15 s here.
        await until(lambda: (keys.digest(secret), revoked) in seen, seconds=5)


async def test_without_nats_a_lookup_is_an_error_and_not_an_unknown_key(
    bus: Bus, nats: EmbeddedNats
) -> None:
    keyring = Keyring(bus)
    secret, _ = await keyring.create("ci")
    await bus.close()
    with pytest.raises(BusError, match="cannot read an API key"):
        await keyring.get(keys.digest(secret))
