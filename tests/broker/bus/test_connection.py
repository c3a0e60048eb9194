"""The connection: what it says when it cannot be had, and that it comes back by itself."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import time
from pathlib import Path

import pytest

from broker import subjects
from broker.bus import Bus, BusError, connect
from broker.bus import connection as connection_module
from broker.bus.capacity import read_allowances
from broker.bus.fleet import create_fleet_token, fleet_token
from broker.bus.layout import ensure_layout
from broker.bus.mirror import Mirror
from broker.bus.queue import Puller
from broker.bus.results import Results
from broker.config import NatsSettings, Settings, load_settings
from broker.embedded import find_binary
from tests.broker.bus.server import NatsServer, Proxy, until
from tests.ports import free_port


async def test_an_unreachable_server_is_one_line_that_says_where_and_no_password() -> None:
    port = free_port()
    settings = NatsSettings(url=f"nats://user:hidden-word@127.0.0.1:{port}")
    begun = time.monotonic()
    with pytest.raises(BusError) as told:
        await connect(settings, name="test", patience_s=0.5)
    assert time.monotonic() - begun < 2
    said = str(told.value)
    assert f"127.0.0.1:{port}" in said
    assert "MILLRACE_NATS" in said
    assert "hidden-word" not in said
    assert "\n" not in said


async def test_a_server_without_jetstream_is_said_to_lack_it(tmp_path: Path) -> None:
    server = NatsServer(tmp_path, jetstream=False)
    await server.start()
    bus = await server.bus()
    try:
        with pytest.raises(BusError, match="JetStream"):
            await bus.check_server()
    finally:
        await bus.close()
        server.kill()


async def test_a_server_that_is_new_enough_passes(bus: Bus) -> None:
    assert await bus.check_server() >= 4


async def test_a_frozen_server_is_no_traceback(
    far: Bus, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "PATIENCE_S", 0.5)
    far.js._timeout = 0.3
    proxy.stall()
    with pytest.raises(BusError):
        await far.check_server()
    with pytest.raises(BusError):
        await far.kv(subjects.CFG)
    proxy.flow()


async def test_a_bucket_is_waited_for(nats: NatsServer) -> None:
    bus = await nats.bus()
    waiting = asyncio.create_task(bus.kv(subjects.CFG))
    await asyncio.sleep(0.4)
    assert not waiting.done()
    await ensure_layout(bus, 1)
    kv = await asyncio.wait_for(waiting, 2)
    await kv.put("a", b"b")
    await bus.close()


async def test_everybody_who_asked_is_told_of_each_reconnect(nats: NatsServer, bus: Bus) -> None:
    told: list[str] = []

    def fails() -> None:
        told.append("a")
        raise ValueError("its own trouble")

    bus.on_reconnect(fails)
    bus.on_reconnect(lambda: told.append("b"))
    for times in (1, 2):
        nats.kill()
        await nats.start()
        await until(lambda times=times: len(told) == 2 * times, "all are told")  # type: ignore[misc]
    assert told == ["a", "b"] * 2


async def test_who_left_is_kept_no_longer_for_a_reconnect(bus: Bus) -> None:
    before = len(bus._on_reconnect)
    mirror = Mirror(bus, subjects.CFG)
    puller = Puller(bus, "INT", "c", lambda _delivery: None, lambda: None)
    for _ in range(3):
        await read_allowances(bus)
    await mirror.start()
    await puller.start()
    following = Results(bus).follow(1)
    first = asyncio.ensure_future(anext(following))
    await until(lambda: len(bus._on_reconnect) == before + 3, "three want to know")
    first.cancel()
    await asyncio.wait([first])
    await following.aclose()
    await puller.close()
    await mirror.close()
    assert len(bus._on_reconnect) == before


async def test_an_outage_is_a_few_lines_in_the_log(
    nats: NatsServer, bus: Bus, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        nats.kill()
        await asyncio.sleep(1.5)
        await nats.start()
        await until(lambda: "reconnected" in caplog.text, "it is said that it is back")
    lines = [r for r in caplog.records if r.name.startswith("broker.bus")]
    assert 2 <= len(lines) <= 4, [r.getMessage() for r in lines]


async def test_closing_a_connection_to_a_dead_server_is_quick_and_quiet(
    nats: NatsServer, bus: Bus
) -> None:
    nats.kill()
    await bus.nc.publish("something", b"unsent")
    begun = time.monotonic()
    await bus.close()
    await bus.close()
    assert time.monotonic() - begun < 3


def settings(**env: str) -> Settings:
    return load_settings({"MILLRACE_DATA": "/tmp/unused", **env})


async def test_the_fleet_token_is_made_once_by_however_many(nats: NatsServer, bus: Bus) -> None:
    buses = [await nats.bus() for _ in range(4)]
    await asyncio.gather(*(create_fleet_token(b) for b in buses))
    tokens = {await fleet_token(b, settings()) for b in buses}
    assert len(tokens) == 1
    assert len(tokens.pop()) >= 32
    assert await fleet_token(bus, settings(MILLRACE_FLEET_TOKEN="ours-to-choose-0123456789")) == (
        "ours-to-choose-0123456789"
    )
    for b in buses:
        await b.close()


async def test_the_fleet_token_is_waited_for(bus: Bus) -> None:
    waiting = asyncio.create_task(fleet_token(bus, settings()))
    await asyncio.sleep(0.4)
    assert not waiting.done()
    await create_fleet_token(bus)
    assert await asyncio.wait_for(waiting, 2)


def test_what_serves_websockets_alone_is_not_loaded() -> None:
    code = "import broker.bus, sys; assert 'nats' in sys.modules and 'aiohttp' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])


@pytest.mark.filterwarnings("ignore:parameter .timeout.:DeprecationWarning")  # of nats-py
async def test_a_server_is_reached_over_websockets(tmp_path: Path) -> None:
    port, web = free_port(), free_port()
    config = tmp_path / "nats.conf"
    config.write_text(f"listen: 127.0.0.1:{port}\nwebsocket {{ port: {web}, no_tls: true }}\n")
    server = subprocess.Popen([str(find_binary()), "-c", str(config)], stderr=subprocess.DEVNULL)
    try:
        bus = await connect(NatsSettings(url=f"ws://127.0.0.1:{web}"), name="web")
        inbox = await bus.nc.subscribe("there")
        await bus.nc.publish("there", b"hello")
        assert (await inbox.next_msg(5)).data == b"hello"
        await bus.close()
    finally:
        server.kill()
        server.wait()
