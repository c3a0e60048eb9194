"""The broker process's work: pools get their consumers, whatever becomes of the server."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from nats.js.api import StreamConfig
from nats.js.errors import KeyNotFoundError, NotFoundError

from broker import presence, subjects
from broker.bus import Bus, BusError
from broker.bus.fleet import fleet_token
from broker.bus.layout import ensure_layout
from broker.config import load_settings
from broker.controller import Controller
from broker.fleet import FleetView
from broker.routing.residency import Claim
from tests.broker.bus.server import NatsServer, until
from tests.ports import free_port

SETTINGS = load_settings({"MILLRACE_DATA": "/tmp/unused"})
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
async def bus(nats: NatsServer) -> AsyncIterator[Bus]:
    bus = await nats.bus()
    yield bus
    await bus.close()


CLAIMS = frozenset({Claim(frozenset({"EU"}), "https://a.example/where")})


@pytest.fixture
async def controller(bus: Bus) -> AsyncIterator[Controller]:
    controller = Controller(bus, SETTINGS)
    await controller.start()
    yield controller
    await controller.close()


async def announce(
    bus: Bus, worker: str, *, slots: int = 4, pool: str = "main", models: tuple[str, ...] = ()
) -> None:
    lease = presence.WorkerLease(
        worker=worker, provider="sim", pool=pool, slots=slots, models=models, claims=CLAIMS
    )
    kv = await bus.kv(subjects.WORKERS)
    await kv.put(subjects.worker_key("sim", worker), presence.encode(lease))


async def in_flight_limit(bus: Bus, pool: str = "main") -> int:
    """Of the interactive consumer; 0 when there is none."""
    try:
        info = await bus.js.consumer_info("INT", subjects.consumer("int", "sim", pool))
    except NotFoundError:
        return 0
    return info.config.max_ack_pending or 0


async def test_a_pool_that_shows_up_gets_its_consumers_and_is_known(
    bus: Bus, controller: Controller
) -> None:
    await announce(bus, "w1")
    await until(lambda: in_flight_limit(bus), "it has a consumer", 3)
    cfg = await bus.kv(subjects.CFG)

    async def known() -> bool:
        return subjects.pool_key("sim", "main") in await cfg.keys()

    await until(known, "it is known")
    for lane, stream in subjects.LANES.items():
        await bus.js.consumer_info(stream, subjects.consumer(lane, "sim", "main"))
    value = (await cfg.get(subjects.pool_key("sim", "main"))).value
    record = presence.PoolRecord("sim", "main", frozenset(), CLAIMS)
    assert presence.decode_pool(value or b"") == record


async def test_what_workers_say_of_their_pool_is_known_when_they_are_gone(
    bus: Bus, controller: Controller
) -> None:
    view = FleetView(bus, lambda: None)
    await view.start()
    await announce(bus, "w1", models=("a",))
    await announce(bus, "w2", models=("b",))
    cfg = await bus.kv(subjects.CFG)

    async def recorded() -> bool:
        try:
            value = (await cfg.get(subjects.pool_key("sim", "main"))).value or b""
        except KeyNotFoundError:
            return False
        return presence.decode_pool(value).models == {"a", "b"}

    await until(recorded, "both models are written down")
    leases = await bus.kv(subjects.WORKERS)
    for worker in ("w1", "w2"):
        await leases.purge(subjects.worker_key("sim", worker))

    async def gone() -> bool:
        return not view.fleet.live

    await until(gone, "nobody is there any more")
    assert view.fleet.away == {"sim": {"main": frozenset({"a", "b"})}}
    assert view.fleet.claims == {"sim": CLAIMS}
    assert view.fleet.listed("b") == [("sim", "b")]
    await view.close()


async def test_a_pool_that_grows_may_have_more_in_flight(bus: Bus, controller: Controller) -> None:
    await announce(bus, "w1", slots=200)
    await until(lambda: in_flight_limit(bus), "it has a consumer")
    assert await in_flight_limit(bus) == 1000
    await announce(bus, "w2", slots=200)

    async def grown() -> bool:
        return await in_flight_limit(bus) == 1600

    await until(grown, "it may have more")


async def test_leases_of_another_version_are_passed_over(bus: Bus, controller: Controller) -> None:
    kv = await bus.kv(subjects.WORKERS)
    await kv.put("w.sim.odd", b"\xff not json")
    await kv.put("w.sim.other", b'{"slots": "many"}')
    await kv.put("e.edge", b"{}")
    await announce(bus, "w1")
    await until(lambda: in_flight_limit(bus), "the pool is there all the same")


async def test_a_server_that_lost_its_disk_is_laid_out_again_with_its_pools(
    nats: NatsServer, bus: Bus, controller: Controller
) -> None:
    token = await fleet_token(bus, SETTINGS)
    await announce(bus, "w1")
    await until(lambda: in_flight_limit(bus), "it has a consumer")
    nats.kill()
    nats.wipe()
    await nats.start()
    other = await nats.bus("other")

    async def laid_out() -> bool:
        try:
            await other.js.stream_info("KV_workers")
        except NotFoundError:
            return False
        return True

    await until(laid_out, "the bus is laid out", 15)
    await announce(other, "w1")
    await until(lambda: in_flight_limit(other), "the pool has its consumers", 5)
    # Whoever starts now shows the token that those who run expect.
    assert await fleet_token(other, SETTINGS) == token
    await other.close()


async def test_a_server_that_froze_while_it_was_asked_is_asked_again(
    nats: NatsServer, bus: Bus, controller: Controller
) -> None:
    bus.js._timeout = 0.5
    other = await nats.bus("other")
    await announce(other, "w0")
    await until(lambda: in_flight_limit(bus), "it has a consumer")
    # The change is on its way when the server freezes: what it leads to finds nobody.
    controller._changed.set()
    controller._pools.clear()
    nats.signal(signal.SIGSTOP)
    await asyncio.sleep(1.5)
    nats.signal(signal.SIGCONT)
    await until(lambda: bus.connected and other.connected, "reconnected")
    bus.js._timeout = 5
    await announce(other, "w2", pool="second")
    await until(lambda: in_flight_limit(other, "second"), "the next pool gets its consumers", 8)
    await other.close()


async def test_many_restarts_do_not_stop_it(
    nats: NatsServer, bus: Bus, controller: Controller
) -> None:
    for number in range(4):
        nats.kill()
        await nats.start()
        other = await nats.bus("other")
        await announce(other, "w1", pool=f"pool{number}")
        await until(
            lambda other=other, number=number: in_flight_limit(other, f"pool{number}"),  # type: ignore[misc]
            "the new pool gets its consumers",
            10,
        )
        await other.close()


async def test_two_of_them_get_along(bus: Bus, controller: Controller, nats: NatsServer) -> None:
    bus2 = await nats.bus("second")
    second = Controller(bus2, SETTINGS)
    await second.start()
    await announce(bus, "w1")
    await until(lambda: in_flight_limit(bus), "it has a consumer")
    await second.close()
    await bus2.close()


async def test_closing_leaves_no_task(bus: Bus) -> None:
    controller = Controller(bus, SETTINGS)
    await controller.start()
    await controller.close()
    await asyncio.sleep(0.05)
    ours = [t for t in asyncio.all_tasks() if "broker/" in repr(t.get_coro())]
    assert ours == []
    assert not {"pools", "mirror workers"} & {t.get_name() for t in asyncio.all_tasks()}


async def test_a_layout_that_cannot_be_made_says_which_part(nats: NatsServer, bus: Bus) -> None:
    await ensure_layout(bus, 1)
    await bus.js.delete_stream("BG")
    await bus.js.add_stream(StreamConfig(name="MINE", subjects=["req.bg.>"]))
    with pytest.raises(BusError, match="stream BG: subjects overlap"):
        await ensure_layout(bus, 1)


def run_broker(tmp_path: Path, port: int) -> subprocess.CompletedProcess[str]:
    env = {
        **os.environ,
        "MILLRACE_NATS": f"nats://127.0.0.1:{port}",
        "MILLRACE_DATA": str(tmp_path / "data"),
        "MILLRACE_LOG_FORMAT": "json",
    }
    return subprocess.run(
        [sys.executable, "-m", "broker"],
        env=env,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )


async def test_a_process_without_a_server_ends_with_one_line_and_exit_code_1(
    tmp_path: Path,
) -> None:
    result = await asyncio.to_thread(run_broker, tmp_path, free_port())
    assert result.returncode == 1
    assert "Traceback" not in result.stderr + result.stdout
    assert "cannot reach NATS" in result.stderr + result.stdout


async def test_a_process_on_a_server_without_jetstream_ends_with_one_line(tmp_path: Path) -> None:
    server = NatsServer(tmp_path, jetstream=False)
    await server.start()
    try:
        result = await asyncio.to_thread(run_broker, tmp_path, server.port)
    finally:
        server.kill()
    assert result.returncode == 1
    assert "Traceback" not in result.stderr + result.stdout
    assert "JetStream" in result.stderr + result.stdout
