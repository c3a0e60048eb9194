"""A lease lives as long as its holder, whatever becomes of the server."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from nats.js.errors import KeyNotFoundError

from broker import subjects
from broker.bus import Bus
from broker.bus import lease as lease_module
from broker.bus.layout import ensure_layout
from broker.bus.lease import Lease
from tests.broker.bus.server import NatsServer, Proxy, until

BUCKET = subjects.WORKERS
KEY = "w.sim.one"
ROOT = Path(__file__).resolve().parents[3]
# The holder, as a process of its own.
HOLDER = """
import asyncio, sys
from broker.bus import connect, lease
from broker.config import NatsSettings

lease.TTL_S, lease.RENEW_S = 2, 0.5

async def main() -> None:
    bus = await connect(NatsSettings(url=sys.argv[1]), name="holder")
    await lease.Lease(bus, "workers", "w.sim.one", lambda: b"here").start()
    await asyncio.Event().wait()

asyncio.run(main())
"""
Start = Callable[..., None]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "TTL_S", 2)
    monkeypatch.setattr(lease_module, "RENEW_S", 0.3)


@pytest.fixture
async def make() -> AsyncIterator[Callable[[Bus], Lease]]:
    leases: list[Lease] = []

    def make(bus: Bus) -> Lease:
        leases.append(Lease(bus, BUCKET, KEY, lambda: b"here"))
        return leases[-1]

    yield make
    for lease in leases:
        if lease._task is not None:
            lease._task.cancel()


@pytest.fixture
def holder(nats: NatsServer) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    processes = []

    def start() -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", HOLDER, f"nats://127.0.0.1:{nats.port}"]
        processes.append(subprocess.Popen(command, cwd=ROOT))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait(10)


async def value(bus: Bus) -> bytes | None:
    try:
        return (await (await bus.kv(BUCKET)).get(KEY)).value
    except KeyNotFoundError:
        return None


async def held(bus: Bus) -> bool:
    return await value(bus) == b"here"


async def free(bus: Bus) -> bool:
    return await value(bus) is None


async def test_a_killed_holders_lease_vanishes_within_its_time(
    bus: Bus, holder: Callable[[], subprocess.Popen[bytes]]
) -> None:
    process = holder()
    await until(lambda: held(bus), "it is taken")
    await asyncio.sleep(3)
    assert await held(bus)  # longer than one lease lasts
    process.kill()
    begun = time.monotonic()
    await until(lambda: free(bus), "it is free", 5)
    assert 1 < time.monotonic() - begun < 4


async def test_a_lease_is_there_as_soon_as_a_killed_server_is(
    nats: NatsServer, bus: Bus, make: Callable[[Bus], Lease]
) -> None:
    await make(bus).start()
    nats.kill()
    await nats.start()
    other = await nats.bus("other")
    assert await held(other)
    end = time.monotonic() + 4
    while time.monotonic() < end:  # and stays, though it had to be renewed over a new connection
        assert await held(other)
        await asyncio.sleep(0.05)
    await other.close()


async def test_a_lease_is_taken_again_when_the_server_lost_everything(
    nats: NatsServer, bus: Bus, make: Callable[[Bus], Lease]
) -> None:
    await make(bus).start()
    nats.kill()
    nats.wipe()
    await nats.start()
    other = await nats.bus("other")
    await ensure_layout(other, 1)
    await until(lambda: held(other), "it is taken again", 5)
    await other.close()


async def test_a_lease_that_ran_out_during_an_outage_is_taken_again(
    far: Bus, bus: Bus, proxy: Proxy, make: Callable[[Bus], Lease]
) -> None:
    await make(far).start()
    proxy.refuse()
    await until(lambda: free(bus), "it ran out", 6)
    await proxy.start()
    await until(lambda: held(bus), "it is taken again", 6)
    await asyncio.sleep(2.5)
    assert await held(bus)


async def test_a_renewal_whose_answer_was_lost_does_not_end_the_lease(
    far: Bus, bus: Bus, proxy: Proxy, make: Callable[[Bus], Lease]
) -> None:
    lease = make(far)
    await lease.start()
    # Somebody wrote since: the revision we know is not the last one.
    await (await bus.kv(BUCKET)).put(KEY, b"there")
    await until(lambda: held(bus), "it is ours again", 3)


async def test_a_lease_says_what_its_holder_says_now(bus: Bus) -> None:
    values = iter([b"1", b"2", b"3"])
    lease = Lease(bus, BUCKET, KEY, lambda: next(values))
    await lease.start()
    assert await value(bus) == b"1"
    await lease.renew()
    assert await value(bus) == b"2"
    await lease.release()


async def test_a_released_lease_is_gone_at_once_and_stays_gone(
    bus: Bus, make: Callable[[Bus], Lease]
) -> None:
    lease = make(bus)
    await lease.start()
    await lease.release()
    assert await free(bus)
    await asyncio.sleep(0.7)
    assert await free(bus)


async def test_releasing_without_a_server_takes_no_longer_than_the_lease_lasts(
    nats: NatsServer, bus: Bus, make: Callable[[Bus], Lease]
) -> None:
    lease = make(bus)
    await lease.start()
    nats.kill()
    await asyncio.wait_for(lease.release(), 2.5)
