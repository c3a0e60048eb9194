from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.meter import family
from tests.workers.sim.raw import Client, Sim, chat_body, start


@pytest.fixture
def sim() -> Iterator[Sim]:
    sim = start()
    yield sim
    sim.process.terminate()
    sim.process.wait(timeout=2)
    assert sim.process.stdout is not None
    sim.process.stdout.close()


def test_the_relay_passes_answers_on_untouched(sim: Sim) -> None:
    upstream = f"http://{sim.address[0]}:{sim.address[1]}"
    command = [sys.executable, "-m", "bench.relay", "--upstream", upstream]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        host, port = json.loads(process.stdout.readline())["listening"].split(":")
        client = Client((host, int(port)))
        for fields in ({}, {"stream": True}, {"model": "status=429"}):
            client.send("POST", "/v1/chat/completions", chat_body(**fields))
            reply, bare = client.reply(), sim.chat(**fields)
            assert reply.status == bare.status
            assert reply.headers["content-type"].partition(";")[0] == bare.headers["content-type"]
            if "stream" in fields:
                assert reply.streamed() == bare.streamed()
            elif "model" in fields:
                assert reply.json == bare.json
            else:
                assert reply.text == bare.text
        paced = {"model": "tokens=5,delay_ms=50", "stream": True}
        client.send("POST", "/v1/chat/completions", chat_body(**paced))
        reply = client.reply()
        assert reply.seconds - reply.first_byte > 0.1  # it does not wait for the end
        client.close()
        process.terminate()
        assert process.wait(timeout=5) == 0


def test_a_run_prints_the_table_and_writes_the_figures(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "figures.json"
    arguments = ["--quick", "--scale", "0.2", "--only", "relay", "--phases", "unary-1,burst-64"]
    done = subprocess.run(
        [sys.executable, "-m", "bench", *arguments, "--json", str(out)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PATH": "", "TMPDIR": str(tmp_path)},
    )
    assert (done.returncode, done.stderr) == (0, "")
    written = json.loads(out.read_text())
    assert set(written["targets"]) == {"direct", "relay"}
    relay = written["targets"]["relay"]
    assert relay["errors"] == 0
    assert relay["added_ms"]["p50"] > 0
    assert relay["cpu_us_per_request"]["unary-1"] > 10
    assert relay["rss_mb"]["relay"] > 10
    assert "20 chunks at once, 64 clients" in done.stdout
    assert not list(tmp_path.glob("millrace-bench-*"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_every_process_of_a_run(tmp_path: Path, number: signal.Signals) -> None:
    arguments = ["--quick", "--only", "relay", "--json", str(tmp_path / "out.json")]
    process = subprocess.Popen(
        [sys.executable, "-m", "bench", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={"PATH": "", "TMPDIR": str(tmp_path)},
    )
    deadline = time.monotonic() + 20
    while len(members := family(process.pid)) < 4:  # the bench, sim, load generator, relay
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)
    assert process.wait(timeout=10) != 0
    assert [pid for pid in members if Path(f"/proc/{pid}").exists()] == []
    assert not list(tmp_path.glob("millrace-bench-*"))


def test_an_unknown_target_or_phase_is_named() -> None:
    command = [sys.executable, "-m", "bench", "--only", "relay,nginx"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 2
    assert "unknown: nginx" in done.stderr
