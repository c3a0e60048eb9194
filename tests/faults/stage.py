"""The fake provider and a `millrace up` in front of it, as processes."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
KEY = "mr-a-key-for-tests-0123456789"
_READY_S = 40
_OURS = re.compile(r"MILLRACE_.*|.*_API_KEY|.*_BASE_URL")
# More than one at a time hangs; each gets its own place.
_SLOTS = "300"


@dataclass
class Stage:
    """Where both are."""

    data: Path
    provider_port: int
    http_port: int

    @property
    def provider(self) -> str:
        return f"http://127.0.0.1:{self.provider_port}"

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{self.http_port}",
            headers={"authorization": f"Bearer {KEY}"},
            timeout=100,
            limits=httpx.Limits(max_connections=None),
        )

    async def stats(self, http: httpx.AsyncClient) -> Any:
        """What the provider counted."""
        return json.loads((await http.get(f"{self.provider}/stats")).content)

    async def gauge(self, http: httpx.AsyncClient, name: str) -> float:
        """The sum of a gauge of the edge over its labels."""
        text = (await http.get("/metrics")).text
        values = re.findall(rf"^millrace_{name}(?:{{[^}}]*}})? ([0-9.e+]+)$", text, re.MULTILINE)
        assert values, f"no {name} in the metrics"
        return sum(map(float, values))


@contextlib.contextmanager
def staged(folder: Path, settings: dict[str, Any], nowhere: Mapping[str, str]) -> Iterator[Stage]:
    """Both, running; `settings` of a millrace.yaml, and further providers by base URL."""
    stage = Stage(folder / "data", free_port(), free_port())
    kept = {name: value for name, value in os.environ.items() if not _OURS.fullmatch(name)}
    env = {
        **kept,
        "PYTHONPATH": str(ROOT),
        "MILLRACE_DATA": str(stage.data),
        "MILLRACE_API_KEY": KEY,
        "MILLRACE_HTTP": f"127.0.0.1:{stage.http_port}",
        "MILLRACE_GRPC": f"127.0.0.1:{free_port()}",
        "MILLRACE_LOG_LEVEL": "warning",
        "OPENAI_API_KEY": "sk-fake",
        "OPENAI_BASE_URL": f"{stage.provider}/v1",
        "OPENAI_SLOTS": _SLOTS,
        "ANTHROPIC_API_KEY": "sk-fake",
        "ANTHROPIC_BASE_URL": stage.provider,
        "ANTHROPIC_SLOTS": _SLOTS,
    }
    rows = {
        name: {"kind": "openai_compatible", "base_url": url.format(port=stage.provider_port)}
        for name, url in nowhere.items()
    }
    written = json.dumps({"providers": rows, **settings})  # JSON is YAML
    (folder / "millrace.yaml").write_text(written)
    provider = [sys.executable, "-m", "tests.faults.provider", str(stage.provider_port)]
    up = [sys.executable, "-m", "broker.cli", "up"]
    with contextlib.ExitStack() as stack:
        for name, command, cwd in (("provider", provider, ROOT), ("millrace", up, folder)):
            stack.enter_context(_running(command, env, cwd, folder / f"{name}.log"))
        try:
            _wait_ready(stage, folder / "millrace.log")
            yield stage
        finally:
            sys.stdout.write((folder / "millrace.log").read_text()[-4000:])


@contextlib.contextmanager
def _running(command: list[str], env: dict[str, str], cwd: Path, log: Path) -> Iterator[None]:
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=env, cwd=cwd, stdout=out, stderr=out)
    try:
        yield
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_ready(stage: Stage, log: Path) -> None:
    deadline = time.monotonic() + _READY_S
    while "Millrace is ready" not in log.read_text():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)
