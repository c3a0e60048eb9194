"""The Python examples against a running Millrace."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grpc
import pytest

from broker.v1 import inference_service_pb2 as pb
from broker.v1 import inference_service_pb2_grpc
from examples.python.connection import OPTIONS, SERVICE_CONFIG
from examples.python.infer import question
from tests.cli.harness import Up, clean_environment, until
from tests.examples.conftest import ROOT, Run

HELLO = "Hello from sim"


def test_infer_prints_the_answer_and_who_gave_it(example: Run) -> None:
    text, who = example("infer", "Hello").stdout.splitlines()
    assert text.startswith(HELLO)
    assert who == "-- sim/hello, 20 tokens"


def test_infer_takes_a_prompt_and_a_model(example: Run) -> None:
    assert example("infer", "Say this", "sim/echo").stdout.splitlines()[0] == "Say this"


def test_infer_stream_prints_each_piece_when_it_comes(up: Up) -> None:
    env = {"MILLRACE_GRPC": up.grpc, "MILLRACE_API_KEY": up.api_key}
    model = "sim/tokens=4,delay_ms=300"
    command = [sys.executable, "-m", "examples.python.infer_stream", "Hello", model]
    with subprocess.Popen(
        command, cwd=ROOT, env=clean_environment(**env), stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        first = os.read(process.stdout.fileno(), 1000)
        began = time.monotonic()
        rest = process.stdout.read()
        took = time.monotonic() - began
    assert process.returncode == 0
    assert first
    assert took > 0.5  # three more tokens, 300 ms apart
    assert rest.endswith(b"\n-- 4 tokens\n")


def test_infer_many_gives_every_line_its_result_and_a_failure_fails_alone(
    example: Run, tmp_path: Path
) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("one\ntwo\nthree\n")
    # The first of the three calls is refused by the provider.
    lines = example("infer_many", str(file), "sim/echo,status=400,first_n=1").stdout.splitlines()
    assert lines.pop() == "-- 2 answered, 1 failed"
    results = dict(line.split("\t") for line in lines)
    assert set(results) == {"line-1", "line-2", "line-3"}
    failed = [text for text in results.values() if text == "invalid_request: simulated status 400"]
    assert len(failed) == 1
    assert set(results.values()) - set(failed) < {"one", "two", "three"}


def test_infer_many_takes_more_lines_than_run_at_a_time(example: Run, tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("".join(f"prompt {n}\n" for n in range(1000)))
    lines = example("infer_many", str(file)).stdout.splitlines()
    assert lines.pop() == "-- 1000 answered, 0 failed"
    assert dict(line.split("\t") for line in lines) == {
        f"line-{n + 1}": f"prompt {n}" for n in range(1000)
    }


def test_cancel_ends_a_stream_from_another_connection(example: Run) -> None:
    assert example("cancel").stdout.splitlines() == [
        "after 5 pieces: OUTCOME_CANCELLED",
        "the stream ended: client_gone: the request was cancelled",
        "once more: OUTCOME_NOT_FOUND",
    ]


def test_a_background_answer_is_read_on_from_where_its_reader_left(example: Run) -> None:
    prompt = " ".join(f"word{number}" for number in range(40))
    text, status = example("background", prompt, "sim/echo").stdout.splitlines()
    assert text == prompt
    assert status == "-- completed"


def test_load_shows_models_workers_and_that_nothing_is_left_running(example: Run) -> None:
    example("infer", "Hello", "sim/echo")
    until(lambda: "sim/echo: 0 calls, 0 answered 429\n" in example("load").stdout)
    version, models, load, worker, *_ = example("load").stdout.splitlines()
    assert version == "version 0.1.0, bodies up to 32 MiB"
    assert "sim/echo" in models.split()
    assert load == "in flight 0, queued 0, running 0"
    assert worker.endswith(": 0 of 64 slots")


def test_the_openai_sdk_answers_streams_and_raises(example: Run) -> None:
    pytest.importorskip("openai")
    whole, streamed, usage, error = example("openai_sdk").stdout.splitlines()
    assert whole.startswith(HELLO)
    assert streamed == "Say this again"
    assert usage == "-- 11 tokens"
    assert error.startswith("400 decimal_above_max_value, field temperature, request req_")


@pytest.mark.parametrize("name", ["infer", "infer_stream"])
@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("sim/hello,nonsense", "invalid_request: unknown knobs: nonsense"),
        ("nobody/x", "model_not_found: The model 'nobody/x' does not exist"),
        ("sim/status=429,retry_after=50,key={name}", "upstream_rate_limit: simulated status 429, retry after 50 s"),
    ],
)  # fmt: skip
def test_an_error_is_told_by_its_reason(example: Run, name: str, model: str, told: str) -> None:
    # A model that is over its limit is not asked again meanwhile.
    result = example(name, "Hello", model.format(name=name), check=False)
    assert result.returncode == 1
    assert result.stderr.strip().startswith(told)


def test_an_error_names_the_field_at_fault(example: Run) -> None:
    result = example("infer", "Hello", "nobody/x", check=False)
    assert result.stderr.strip().endswith(", field model")


@pytest.mark.parametrize(
    ("env", "told"),
    [
        ({"MILLRACE_API_KEY": "mr-wrong"}, "invalid_api_key: the API key is not known here"),
        ({"MILLRACE_GRPC": "127.0.0.1:1"}, "UNAVAILABLE: failed to connect"),
    ],
)
def test_a_wrong_key_and_an_absent_server_are_told(
    example: Run, env: dict[str, str], told: str
) -> None:
    assert example("load", env=env, check=False).stderr.startswith(told)


# --- the channel's options, with shorter times ---


def channel_with(
    up: Up, changed: Mapping[str, int] = {}, *, timeout_s: float = 60
) -> grpc.aio.Channel:
    """The examples' channel, each default deadline and the named options changed."""
    config = json.loads(json.dumps(SERVICE_CONFIG))
    for row in config["methodConfig"]:
        row["timeout"] = f"{timeout_s}s"
    options: dict[str, Any] = dict(OPTIONS)
    options["grpc.service_config"] = json.dumps(config)
    assert set(changed) <= set(options)
    return grpc.aio.insecure_channel(up.grpc, options=[*(options | {**changed}).items()])


HANGS = question("Hello", "sim/fault=hang")


def credentials(up: Up) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {up.api_key}"),)


async def test_a_call_without_a_deadline_gets_the_default_one(up: Up) -> None:
    async with channel_with(up, timeout_s=0.5) as channel:
        stub = inference_service_pb2_grpc.InferenceServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as whole:
            await asyncio.wait_for(
                stub.Infer(pb.InferRequest(request=HANGS), metadata=credentials(up)), 10
            )
        stream = stub.InferStream(pb.InferStreamRequest(request=HANGS), metadata=credentials(up))
        with pytest.raises(grpc.aio.AioRpcError) as streamed:
            await asyncio.wait_for(anext(aiter(stream)), 10)
    for raised in (whole, streamed):
        assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_bulk_call_has_no_default_deadline(up: Up) -> None:
    async with channel_with(up, timeout_s=0.2) as channel:
        stub = inference_service_pb2_grpc.InferenceServiceStub(channel)
        slow = question("Hello", "sim/hello,ttft_ms=1000")
        call = stub.InferMany(
            iter([pb.InferManyRequest(custom_id="1", request=slow)]), metadata=credentials(up)
        )
        results = [result async for result in call]
    assert [result.custom_id for result in results] == ["1"]
    assert results[0].HasField("answer")


async def test_keepalive_finds_a_server_that_froze(up: Up) -> None:
    quick = {"grpc.keepalive_time_ms": 500, "grpc.http2.ping_timeout_ms": 500}
    async with channel_with(up, quick) as channel:
        stub = inference_service_pb2_grpc.InferenceServiceStub(channel)
        model = "sim/tokens=1000,delay_ms=20"
        stream = stub.InferStream(
            pb.InferStreamRequest(request=question("Hello", model)), metadata=credentials(up)
        )
        pieces = aiter(stream)
        await anext(pieces)
        edge = up.pids()["edge", "edge"]
        os.kill(edge, signal.SIGSTOP)
        try:
            async with asyncio.timeout(8):
                with pytest.raises(grpc.aio.AioRpcError) as raised:
                    async for _ in pieces:
                        pass
        finally:
            os.kill(edge, signal.SIGCONT)
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
