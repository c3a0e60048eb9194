"""Every other command, run as its users run it against a Millrace that is up."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from broker.embedded import EmbeddedNats
from tests.cli.harness import MILLRACE, Start, Up, clean_environment, millrace, until
from tests.ports import free_port

HELLO = "Hello from sim, the built-in stand-in for a provider"


@pytest.fixture
def env(running: Up) -> dict[str, str]:
    return running.env


def refused(*arguments: str, env: Mapping[str, str] | None = None, cwd: Path | None = None, code: int = 1) -> str:  # fmt: skip
    """The one line that a failing command says."""
    result = millrace(*arguments, env=env, cwd=cwd)
    assert result.returncode == code, (result.stdout, result.stderr)
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    return lines[0]


# Help and versions


def test_version_is_the_packages() -> None:
    assert millrace("--version").stdout == f"millrace {version('millrace')}\n"


def test_help_names_every_command() -> None:
    text = millrace("--help", env={"COLUMNS": "200"}).stdout
    for command in ("up", "edge", "worker", "broker", "sim", "chat", "key", "config", "doctor", "capacity", "models"):  # fmt: skip
        assert re.search(rf"^\W+{command} ", text, re.MULTILINE), command


def test_help_loads_neither_nats_nor_http() -> None:
    code = "import sys, broker.cli.app; print([m for m in ('nats', 'httpx', 'grpc') if m in sys.modules])"
    python = str(Path(MILLRACE).parent / "python")
    result = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


@pytest.mark.parametrize("arguments", [("nope",), ("chat",), ("up", "--nope"), ("worker",), ("key", "revoke")])  # fmt: skip
def test_a_usage_error_exits_with_2(arguments: tuple[str, ...]) -> None:
    result = millrace(*arguments)
    assert result.returncode == 2
    assert "Usage: millrace" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("command", [("up",), ("edge",), ("broker",), ("worker", "openai"), ("models",), ("doctor",), ("capacity",), ("key", "list"), ("config", "check"), ("chat", "m", "p")])  # fmt: skip
def test_every_command_names_the_wrong_field_of_the_settings(
    command: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "millrace.yaml").write_text("limits: {queue_size: many}")
    assert refused(*command, cwd=tmp_path) == "millrace: limits.queue_size: expected int, got str"


# chat


def test_chat_prints_the_answer(env: dict[str, str]) -> None:
    result = millrace("chat", "sim/hello", "Hi", env=env)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith(HELLO)
    assert result.stdout.endswith("\n")


def test_chat_streams(env: dict[str, str]) -> None:
    command = [MILLRACE, "chat", "sim/tokens=30,delay_ms=50", "Hi"]
    with subprocess.Popen(command, env=clean_environment(**env), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        first = os.read(process.stdout.fileno(), 65536)
        came = time.monotonic()
        rest = process.stdout.read()
        assert time.monotonic() - came > 0.5
    assert len((first + rest).split()) == 30
    assert len(first.split()) < 10


def test_chat_sends_the_system_prompt_the_limit_and_standard_input(env: dict[str, str]) -> None:
    result = millrace("chat", "sim/echo", "-", "--system", "Be brief", env=env, input="one two three four")  # fmt: skip
    assert result.stdout == "one two three four\n"
    cut = millrace("chat", "sim/echo", "one two three four", "--max-tokens", "2", env=env)
    assert cut.stdout == "one two\n"
    assert "longest length" in cut.stderr


class Recorder:
    """A stand-in for the edge that keeps what it was asked and answers with given bytes."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"
        self.asked = b""
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        connection, _ = self._socket.accept()
        with connection:
            while b"\r\n\r\n" not in self.asked or not self._whole():
                self.asked += connection.recv(65536)
            connection.sendall(self._answer)

    def _whole(self) -> bool:
        head, _, body = self.asked.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
        return len(body) >= (int(length[1]) if length else 0)

    def close(self) -> None:
        self._thread.join(5)
        self._socket.close()


def stream(*events: Any) -> bytes:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
    return head + b"".join(
        b"data: " + (e.encode() if isinstance(e, str) else json.dumps(e).encode()) + b"\n\n"
        for e in events
    )


def delta(text: str) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}


@pytest.fixture
def recorder() -> Iterator[Any]:
    made: list[Recorder] = []

    def make(answer: bytes) -> Recorder:
        made.append(Recorder(answer))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_chat_asks_for_exactly_what_was_said(recorder: Any) -> None:
    edge = recorder(stream(delta("Yes"), "[DONE]"))
    result = millrace("chat", "m", "p", "--system", "s", "--max-tokens", "7", "--temperature", "0", "--http", edge.address, "--api-key", "mr-1")  # fmt: skip
    assert result.stdout == "Yes\n"
    head, _, body = edge.asked.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/chat/completions ")
    assert b"authorization: Bearer mr-1" in head
    assert json.loads(body) == {
        "model": "m",
        "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "p"}],
        "stream": True,
        "max_completion_tokens": 7,
        "temperature": 0.0,
    }


def test_an_error_inside_the_stream_is_one_line_after_what_was_shown(recorder: Any) -> None:
    error = {"error": {"message": "the provider\nbroke", "code": "upstream_error", "param": None}}
    edge = recorder(stream(delta("Half an"), error))
    result = millrace("chat", "m", "p", "--http", edge.address, "--api-key", "mr-1")
    assert (result.returncode, result.stdout) == (1, "Half an\n")
    assert result.stderr == "millrace: the provider broke (upstream_error)\n"


def test_a_stream_that_just_ends_is_an_error_and_not_a_short_answer(recorder: Any) -> None:
    edge = recorder(stream(delta("Half an")))
    result = millrace("chat", "m", "p", "--http", edge.address, "--api-key", "mr-1")
    assert (result.returncode, result.stdout) == (1, "Half an\n")
    assert result.stderr == "millrace: the answer was cut off\n"


def test_what_is_no_edge_is_one_line(recorder: Any) -> None:
    edge = recorder(b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 4\r\n\r\nnope")
    line = refused("chat", "m", "p", "--http", edge.address, "--api-key", "mr-1")
    assert line == "millrace: the edge answered with status 502"


def test_chat_errors_are_one_line_with_field_and_status(
    env: dict[str, str], tmp_path: Path
) -> None:
    assert "'nope/x'" in (line := refused("chat", "nope/x", "Hi", env=env))
    assert line.endswith("(field model, model_not_found, 404)")
    assert refused("chat", "sim/x", "Hi", "--api-key", "mr-wrong", env=env).endswith(
        "(invalid_api_key, 401)"
    )
    assert "temperature" in refused("chat", "sim/x", "Hi", "--temperature", "9", env=env)
    nobody = {"MILLRACE_HTTP": "127.0.0.1:1", "MILLRACE_API_KEY": "mr-1"}
    assert refused("chat", "sim/x", "Hi", env=nobody) == (
        "millrace: nothing answers at http://127.0.0.1:1; start millrace up, or say where with --http"
    )
    assert "no API key: set --api-key" in refused("chat", "sim/x", "Hi", cwd=tmp_path)


def test_ctrl_c_ends_chat_quietly_and_cancels_the_request(env: dict[str, str]) -> None:
    command = [MILLRACE, "chat", "sim/tokens=10000,delay_ms=20", "Hi"]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, env=clean_environment(**env), stdout=pipe, stderr=pipe
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        os.read(process.stdout.fileno(), 65536)
        process.send_signal(signal.SIGINT)
        assert process.wait(5) == 130
        assert process.stderr.read() == b""
    metrics = f"http://{env['MILLRACE_HTTP']}/metrics"
    assert "millrace" in httpx.get(metrics).text
    until(lambda: in_flight(metrics) == 0, seconds=5, why="the request still runs")


def in_flight(metrics: str) -> float:
    """The sum of all gauges of the edge whose name speaks of requests in flight."""
    rows = re.findall(r"^millrace_\S*in_flight\S*? (\S+)$", httpx.get(metrics).text, re.MULTILINE)
    assert rows, "no in-flight gauge is shown"
    return sum(map(float, rows))


# models


def test_models_lists_what_the_edge_lists(running: Up, env: dict[str, str]) -> None:
    listed = httpx.get(
        f"http://{running.http}/v1/models", headers={"authorization": f"Bearer {running.api_key}"}
    ).json()["data"]
    assert listed
    result = millrace("models", env=env)
    assert result.stdout.splitlines() == sorted(model["id"] for model in listed)
    assert millrace("models", "--for", "generate", env=env).stdout == result.stdout
    none = millrace("models", "--for", "embed", env=env)
    assert (none.stdout, "no model is listed" in none.stderr) == ("", True)
    wrong = millrace("models", "--for", "poetry", env=env)
    assert wrong.returncode != 0
    assert "'embed'" in wrong.stderr


# route


def test_route_shows_where_a_request_would_go(running: Up, env: dict[str, str]) -> None:
    assert millrace("route", "sim/hello", env=env).stdout == "sim/hello\n"
    explained = millrace("route", "sim/hello", "--explain", env=env).stdout
    assert explained.startswith("sim/hello, by price\n")
    assert re.search(r"^1 +sim/hello .* 0/\d+", explained, re.MULTILINE)
    left = json.loads(
        millrace("route", "no-such", "--or", "sim/x", "--provider", "{}", "--json", env=env).stdout
    )
    assert [c["model"] for c in left["candidates"]] == ["x"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("no-such-model",), "does not exist"),
        (("sim/x", "--provider", "{"), "--provider: not JSON"),
        (("sim/x", "--provider", '{"sort": "beauty"}'), "field provider.sort"),
        (("sim/x", "--provider", '{"only": ["openai"]}'), "sim: not in provider.only"),
    ],
)
def test_route_says_why_a_request_would_go_nowhere(
    running: Up, env: dict[str, str], arguments: tuple[str, ...], said: str
) -> None:
    result = millrace("route", *arguments, env=env)
    assert result.returncode == 1
    assert said in " ".join(result.stderr.split())


# key


def works(up: Up, key: str) -> bool:
    url = f"http://{up.http}/v1/models"
    return httpx.get(url, headers={"authorization": f"Bearer {key}"}).is_success


def test_a_created_key_works_until_it_is_revoked(running: Up, env: dict[str, str]) -> None:
    made = millrace("key", "create", "ci", "--tenant", "acme", "--weight", "3", env=env)
    secret = made.stdout.strip()
    assert re.fullmatch(r"mr-\S{43}", secret)
    assert works(running, secret)
    key_id = re.search(r"key_\w+", made.stderr)
    assert key_id
    rows = millrace("key", "list", env=env).stdout.splitlines()
    assert secret not in "".join(rows)
    assert re.search(rf"^{key_id[0]} +ci +acme +3 +\d{{4}}-\d\d-\d\d .* active *$", "\n".join(rows), re.MULTILINE)  # fmt: skip
    revoked = millrace("key", "revoke", key_id[0], env=env)
    assert revoked.stdout == f"{key_id[0]} (ci) is revoked\n"
    until(lambda: not works(running, secret), seconds=5, why="the revoked key still works")
    again = millrace("key", "list", env=env).stdout
    assert re.search(rf"^{key_id[0]} .* revoked \d{{4}}-", again, re.MULTILINE)


def test_revoking_an_unknown_key_is_one_line(env: dict[str, str]) -> None:
    assert "no API key has the id 'key_nope'" in refused("key", "revoke", "key_nope", env=env)


def test_keys_without_a_nats_say_what_to_do(tmp_path: Path) -> None:
    line = refused("key", "list", cwd=tmp_path)
    assert "start millrace up" in line
    assert "MILLRACE_NATS" in line
    dead = refused("key", "list", "--nats", "nats://127.0.0.1:1", cwd=tmp_path)
    assert "cannot reach NATS at nats://127.0.0.1:1" in dead


# config check


def test_config_check_shows_the_result_of_all_sources_without_secrets(tmp_path: Path) -> None:
    (tmp_path / "millrace.yaml").write_text("""
limits: {queue_size: 3}
nats: nats://u:sekret-1@h
providers: {mine: {kind: openai_compatible, base_url: 'http://h', api_key: sekret-2, headers: {x-token: sekret-3}}}
""")
    env = {"MILLRACE_API_KEY": "sekret-4", "MILLRACE_GRPC": "h:2"}
    result = millrace("config", "check", "--http", "h:1", env=env, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    shown = yaml.safe_load(result.stdout)
    assert (shown["http"], shown["grpc"], shown["limits"]["queue_size"]) == ("h:1", "h:2", 3)
    assert shown["nats"]["url"] == "nats://h:4222"
    assert shown["providers"]["mine"]["base_url"] == "http://h"
    assert shown["providers"]["mine"]["headers"] == {"x-token": "********"}
    assert shown["providers_off"]["openai"] == "OPENAI_API_KEY is not set"
    assert shown["api_key"] == shown["nats"]["password"] == "********"
    assert shown["fleet_token"] is None
    assert "sekret" not in result.stdout


# capacity


def test_capacity_lists_models_in_use_and_what_they_refused(env: dict[str, str]) -> None:
    limited = "sim/tokens=1,fault=status,status=429,first_n=1,key=limited"
    assert millrace("chat", limited, "hi", env=env).returncode == 0

    def known() -> bool:
        found = json.loads(millrace("capacity", "sim", "--json", env=env).stdout)
        return any(f"sim/{one['model']}" == limited and one["limited"] == 1 for one in found)

    until(known, why="a refusal is known")
    result = millrace("capacity", env={**env, "COLUMNS": "200"})
    assert (result.returncode, result.stderr) == (0, "")
    head, *rows = result.stdout.splitlines()
    assert head.split() == [
        *("model", "key", "calls", "running", "waiting", "calls/s", "tokens/s", "why"),
        *("429s/min", "429s", "rests"),
    ]
    assert any(limited in row for row in rows)
    none = millrace("capacity", "openai", env=env)
    assert (none.returncode, none.stdout) == (0, "")
    assert "no limit is known" in none.stderr


# doctor


def rows_of(text: str) -> dict[str, tuple[str, str]]:
    """What was looked at -> (state, detail)."""
    found: dict[str, tuple[str, str]] = {}
    for line in text.splitlines():
        what, state, detail = re.split(r" {2,}", line.strip(), maxsplit=2)
        found[what] = (state, detail)
    return found


def test_doctor_finds_a_running_millrace_well(env: dict[str, str]) -> None:
    result = millrace("doctor", env=env)
    assert (result.returncode, result.stderr) == (0, ""), result.stdout
    rows = rows_of(result.stdout)
    states = {what: state for what, (state, _) in rows.items()}
    for what in ("python", "packages", "nats-server", "NATS", "streams", "workers sim", "HTTP", "gRPC"):  # fmt: skip
        assert states[what] == "ok", what
    assert states["provider openai"] == "off"
    assert re.search(
        r"^2\.\d+\.\d+ at nats://127\.0\.0\.1:\d+, JetStream API \d+$", rows["NATS"][1]
    )
    assert "nats-py" in rows["packages"][1]
    assert rows["workers sim"][1].startswith("1 live, 64 slots")


def test_doctor_before_the_first_start_finds_nothing_wrong(tmp_path: Path) -> None:
    free = {
        "MILLRACE_HTTP": "127.0.0.1:1",
        "MILLRACE_GRPC": "127.0.0.1:2",
        "OPENAI_API_KEY": "k1,k2",
    }
    result = millrace("doctor", env=free, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, ""), result.stdout
    rows = rows_of(result.stdout)
    assert rows["NATS"] == ("off", "not running; millrace up starts its own")
    assert rows["HTTP"] == ("off", "127.0.0.1:1 is free")
    assert rows["provider openai"] == ("ok", "2 keys, 64 slots")
    assert not (tmp_path / "millrace-data").exists()


def test_doctor_says_what_to_do_about_a_provider_without_a_worker(env: dict[str, str]) -> None:
    result = millrace("doctor", env=env | {"OPENAI_API_KEY": "k"})
    assert result.returncode == 1
    assert rows_of(result.stdout)["workers openai"] == ("wrong", "none is live")
    assert result.stderr == "workers openai: start one: millrace worker openai\n"


def test_doctor_finds_taken_ports_and_a_nats_that_is_not_there(tmp_path: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.create_server(("127.0.0.1", 0)) as two,
    ):
        result = millrace(
            "doctor", "--nats", "nats://127.0.0.1:1", cwd=tmp_path,
            env={
                "MILLRACE_HTTP": f"127.0.0.1:{one.getsockname()[1]}",
                "MILLRACE_GRPC": f"127.0.0.1:{two.getsockname()[1]}",
            },
        )  # fmt: skip
    assert result.returncode == 1
    rows = rows_of(result.stdout)
    assert [rows[what][0] for what in ("NATS", "HTTP", "gRPC")] == ["wrong"] * 3
    assert "MILLRACE_NATS" in result.stderr
    assert "MILLRACE_HTTP" in result.stderr
    assert "MILLRACE_GRPC" in result.stderr


def test_doctor_misses_the_streams_of_an_empty_nats(tmp_path: Path) -> None:
    nats = EmbeddedNats(tmp_path)
    quiet = subprocess.DEVNULL
    with subprocess.Popen(nats.prepare(), stdout=quiet, stderr=quiet) as process:
        until(lambda: nats.ready(process.pid))
        known = nats.settings()
        url = f"nats://{known.user}:{known.password}@127.0.0.1:{nats.port}"
        result = millrace("doctor", "--nats", url, cwd=tmp_path)
        process.kill()
    assert result.returncode == 1
    assert rows_of(result.stdout)["streams"] == ("wrong", rows_of(result.stdout)["streams"][1])
    assert "INT" in rows_of(result.stdout)["streams"][1]
    assert "millrace broker" in result.stderr
    assert str(known.password) not in result.stdout + result.stderr


# edge, worker, broker, sim


class Command:
    """A command that keeps running."""

    def __init__(self, *arguments: str, env: Mapping[str, str], log: Path) -> None:
        self.log = log
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [MILLRACE, *arguments], env=clean_environment(**env), stdout=out, stderr=out
            )

    def command_line(self) -> list[str]:
        return Path(f"/proc/{self.process.pid}/cmdline").read_text().split("\0")[1:-1]


@pytest.fixture
def keep(tmp_path: Path) -> Iterator[Any]:
    kept: list[Command] = []

    def run(*arguments: str, env: Mapping[str, str]) -> Command:
        kept.append(Command(*arguments, env=env, log=tmp_path / f"{len(kept)}.log"))
        return kept[-1]

    yield run
    for command in kept:
        command.process.kill()
        command.process.wait()


def test_single_processes_make_up_a_millrace_on_an_existing_nats(keep: Any, tmp_path: Path) -> None:
    nats = EmbeddedNats(tmp_path / "nats")
    quiet = subprocess.DEVNULL
    with subprocess.Popen(nats.prepare(), stdout=quiet, stderr=quiet) as server:
        until(lambda: nats.ready(server.pid))
        known = nats.settings()
        sim_port, http = free_port(), f"127.0.0.1:{free_port()}"
        env = {
            "MILLRACE_DATA": str(tmp_path / "data"),
            "MILLRACE_NATS": str(known.url),
            "MILLRACE_NATS_USER": str(known.user),
            "MILLRACE_NATS_PASSWORD": str(known.password),
            "MILLRACE_GRPC": f"127.0.0.1:{free_port()}",
        }
        provider = {"SIM_BASE_URL": f"http://127.0.0.1:{sim_port}/v1"}
        sim = keep("sim", "--port", str(sim_port), env={})
        broker = keep("broker", env=env)
        edge = keep("edge", "--http", http, env=env)
        worker = keep("worker", "sim", env=env | provider)
        until(lambda: ready(http), seconds=30, why=edge.log.read_text() + worker.log.read_text())
        made = millrace("key", "create", "ci", env=env)
        key = {"MILLRACE_HTTP": http, "MILLRACE_API_KEY": made.stdout.strip()}
        assert millrace("chat", "sim/hello", "Hi", env=key).stdout.startswith(HELLO)
        assert (
            json.loads(sim.log.read_text().splitlines()[0])["listening"] == f"127.0.0.1:{sim_port}"
        )
        # The command became the process: signals and exit codes are its own.
        lines = [process.command_line() for process in (edge, worker, broker)]
        assert lines == [["-m", "edge"], ["-m", "workers", "sim"], ["-m", "broker"]]
        for process in (edge, worker, broker, sim):
            process.process.terminate()
            assert process.process.wait(20) == 0, process.log.read_text()
        server.kill()


def ready(http: str) -> bool:
    try:
        return httpx.get(f"http://{http}/readyz").status_code == 200
    except httpx.HTTPError:
        return False


def test_a_worker_joins_the_nats_of_a_running_up_and_serves_its_provider(
    start: Start, keep: Any
) -> None:
    up = start()
    base_url = next(
        value.decode().partition("=")[2]
        for value in Path(f"/proc/{up.pids()['worker', 'sim']}/environ").read_bytes().split(b"\0")
        if value.startswith(b"SIM_BASE_URL=")
    )
    worker = keep("worker", "openai-compatible", env=up.env | {"OPENAI_COMPATIBLE_BASE_URL": base_url})  # fmt: skip
    there = re.compile(r"^workers openai_compatible +ok", re.MULTILINE)
    until(lambda: bool(there.search(doctor(up))), seconds=20, why=worker.log.read_text())
    answer = millrace("chat", "openai_compatible/hello", "Hi", env=up.env)
    assert answer.stdout.startswith(HELLO), answer.stderr


def doctor(up: Up) -> str:
    return millrace("doctor", env=up.env).stdout


def test_a_worker_of_a_provider_that_is_off_says_why(env: dict[str, str]) -> None:
    line = refused("worker", "anthropic", env=env)
    assert line == "millrace: anthropic is off: ANTHROPIC_API_KEY is not set"


def test_a_worker_of_an_unknown_provider_names_the_known(env: dict[str, str]) -> None:
    line = refused("worker", "nope", env=env, code=2)
    assert line.startswith("millrace: unknown provider 'nope'; known are openai, azure, ")


@pytest.mark.parametrize("command", [("edge",), ("broker",), ("worker", "openai")])
def test_a_process_without_a_nats_says_what_to_do(command: tuple[str, ...], tmp_path: Path) -> None:
    line = refused(*command, cwd=tmp_path, env={"OPENAI_API_KEY": "k"})
    assert "start millrace up" in line
    assert "MILLRACE_NATS" in line


def test_sim_on_a_taken_port_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"127.0.0.1:{port}" in refused("sim", "--port", str(port))


def test_sim_refuses_a_port_that_is_none() -> None:
    result = millrace("sim", "--port", "99999")
    assert result.returncode == 2
    assert "less than or equal to 65535" in result.stderr
