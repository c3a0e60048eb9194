"""The shell examples, run as they are."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.cli.harness import Up
from tests.examples.conftest import ROOT, Run

STAND_IN = f"""#!/bin/sh
exec {sys.executable} {Path(__file__).with_name("reflecting_client.py")} "$@"
"""


@pytest.fixture
def path_with_grpcurl(tmp_path: Path) -> str:
    """A PATH with grpcurl on it: the real one, else one that knows only what reflection says."""
    if shutil.which("grpcurl"):
        return os.environ["PATH"]
    stand_in = tmp_path / "grpcurl"
    stand_in.write_text(STAND_IN)
    stand_in.chmod(0o755)
    return f"{tmp_path}:{os.environ['PATH']}"


def test_curl_shows_an_answer_a_stream_an_error_models_and_metrics(run: Run) -> None:
    out = run(["examples/curl.sh"]).stdout
    whole, _, rest = out.partition("\n")
    assert json.loads(whole)["choices"][0]["message"]["content"].startswith("Hello from sim")
    stream, _, rest = rest.partition("data: [DONE]\n")
    chunks = [json.loads(line[6:]) for line in stream.splitlines() if line]
    text = "".join(choice["delta"].get("content", "") for c in chunks for choice in c["choices"])
    assert text == "Hello"
    assert rest.lstrip().startswith("HTTP/1.1 400 ")
    assert '"param":"n"' in rest
    assert '"id":"sim/echo"' in rest
    assert '{"ready":true,"reasons":[]}' in rest
    assert 'millrace_in_flight{process="edge"} 0.0' in rest


def test_grpcurl_needs_no_stubs(run: Run, path_with_grpcurl: str) -> None:
    out = run(["examples/grpcurl.sh"], env={"PATH": path_with_grpcurl}).stdout
    for service in (
        "broker.v1.ControlService",
        "broker.v1.InferenceService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    ):
        assert f"{service}\n" in out
    decode, at, messages = json.JSONDecoder(), 0, []
    listed = out[out.index("{") :]
    while at < len(listed):
        message, end = decode.raw_decode(listed, at)
        messages.append(message)
        at = end + len(listed[end:]) - len(listed[end:].lstrip())
    *events, load = messages
    text = "".join(message["event"].get("text", {}).get("text", "") for message in events)
    assert text.startswith("Hello from sim")
    assert "completed" in events[-1]["event"]
    assert load["workers"][0]["provider"] == "sim"


@pytest.mark.parametrize("script", ["curl.sh", "grpcurl.sh"])
def test_the_key_of_make_run_is_found_without_being_told(
    up: Up, run: Run, script: str, path_with_grpcurl: str
) -> None:
    env = {"MILLRACE_API_KEY": "", "PATH": path_with_grpcurl}
    run([str(ROOT / "examples" / script)], cwd=up.data.parent, env=env)
