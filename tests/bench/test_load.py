from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.workers.sim.raw import USER, Sim, start


@pytest.fixture(scope="module")
def sim() -> Iterator[Sim]:
    sim = start()
    yield sim
    sim.process.terminate()
    sim.process.wait(timeout=2)
    assert sim.process.stdout is not None
    sim.process.stdout.close()


@pytest.fixture(scope="module")
def generator() -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "bench.load"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(timeout=5) == 0


def run(
    generator: subprocess.Popen[str], sim: Sim, model: str, *, stream: bool, **more: Any
) -> dict[str, Any]:
    host, port = sim.address
    expect = sim.chat(model="tokens=20").text
    job = {"host": host, "port": port, "key": "k", "clients": 4, "seconds": 10, "requests": 40}
    job |= {"body": {"model": model, "messages": [USER], "stream": stream}, "expect": expect}
    assert generator.stdin is not None
    assert generator.stdout is not None
    generator.stdin.write(json.dumps(job | more) + "\n")
    generator.stdin.flush()
    report: dict[str, Any] = json.loads(generator.stdout.readline())
    return report


@pytest.mark.parametrize("stream", [False, True])
def test_whole_answers_are_counted_and_timed(
    generator: subprocess.Popen[str], sim: Sim, stream: bool
) -> None:
    sim.request("POST", "/stats/reset")
    report = run(generator, sim, "tokens=20,ttft_ms=30,delay_ms=1", stream=stream)
    assert (report["requests"], report["errors"]) == (40, {})
    assert sim.stats()["calls"] == 41  # and the one that fetched the text
    assert report["events"] == (40 * 20 if stream else 0)
    assert 45 <= report["latency_ms"]["p50"] <= report["latency_ms"]["p99"]
    assert report["rps"] == pytest.approx(40 / report["seconds"])
    assert report["seconds"] >= 0.49  # ten in turn, each about 50 ms
    if stream:
        assert 28 <= report["ttft_ms"]["p50"] < report["latency_ms"]["p50"]


@pytest.mark.parametrize(
    ("model", "stream", "error"),
    [
        ("tokens=20,fault=cut,after=10", True, "connection lost"),
        ("tokens=20,fault=cut", False, "connection lost"),
        ("tokens=20,fault=reset", False, "connection lost"),
        ("tokens=20,fault=no_finish", True, "no finish reason"),
        ("tokens=20,fault=no_finish", False, "no finish reason"),
        ("tokens=20,fault=no_done", True, "no finish reason"),
        ("tokens=20,fault=bad_json", True, "not a completion"),
        ("tokens=20,fault=error_event", True, "not a completion"),
        ("tokens=20,fault=html", False, "not a completion"),
        ("status=503", True, "status 503"),
        ("tokens=19", True, "wrong text"),
        ("tokens=20,vary", False, "wrong text"),
        ("tokens=20,finish=length", False, "no finish reason"),
    ],
)
def test_an_answer_that_is_not_whole_is_an_error(
    generator: subprocess.Popen[str], sim: Sim, model: str, stream: bool, error: str
) -> None:
    report = run(generator, sim, model, stream=stream)
    assert (report["requests"], report["errors"]) == (0, {error: 40})
    assert report["latency_ms"] is None


@pytest.mark.parametrize("model", ["fault=hang", "tokens=20,fault=stall"])
def test_silence_is_a_timeout(generator: subprocess.Popen[str], sim: Sim, model: str) -> None:
    report = run(generator, sim, model, stream=True, requests=4, timeout=0.3)
    assert (report["requests"], report["errors"]) == (0, {"timeout": 4})
    assert sim.until(lambda stats: stats["open"] == 0)["aborted"] >= 4


def test_errors_and_whole_answers_are_told_apart(
    generator: subprocess.Popen[str], sim: Sim
) -> None:
    model = "tokens=20,fault=cut,first_n=7,key=load"
    report = run(generator, sim, model, stream=True)
    assert (report["requests"], report["errors"]) == (33, {"connection lost": 7})


def test_it_stops_when_the_time_is_up(generator: subprocess.Popen[str], sim: Sim) -> None:
    report = run(generator, sim, "tokens=20", stream=False, requests=None, seconds=0.3)
    assert 0.3 <= report["seconds"] < 1
    assert report["requests"] > 40


def test_nobody_there_is_an_error(generator: subprocess.Popen[str], sim: Sim) -> None:
    report = run(generator, sim, "sim", stream=False, port=1, seconds=0.2)
    assert report["requests"] == 0
    assert report["errors"]["cannot connect"] > 4
