"""A whole Millrace as local processes, for tests that kill, freeze and starve its parts."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import httpx

from broker.bus import Bus, connect
from broker.bus.usage import usage_groups
from broker.config import NatsSettings
from broker.ledger import Ledger
from broker.v1 import control_service_pb2, control_service_pb2_grpc
from tests.ports import free_port

MakeStack = Callable[..., Awaitable["Stack"]]
KEY = "mr-a-key-for-tests-0123456789"
ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 40.0


async def until(check: Callable[[], Any], what: str, timeout_s: float = PATIENCE_S) -> Any:
    """Poll until `check` (plain or async) gives something true; fails the test at the deadline."""
    deadline = time.monotonic() + timeout_s
    last: Any = None
    while time.monotonic() < deadline:
        try:
            last = check()
            if asyncio.iscoroutine(last):
                last = await last
        except (httpx.TransportError, grpc.aio.AioRpcError) as exc:
            last = exc
        else:
            if last:
                return last
        await asyncio.sleep(0.02)
    raise AssertionError(f"not within {timeout_s} s: {what} (last: {last!r})")


@dataclass
class Process:
    name: str
    popen: subprocess.Popen[bytes]
    log: Path

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        self.popen.send_signal(number)
        if number == signal.SIGKILL:
            self.popen.wait(10)

    @property
    def running(self) -> bool:
        return self.popen.poll() is None


@dataclass
class Stack:
    """Processes by name: nats, sim, broker, edge, edge2..., worker0, worker1..."""

    folder: Path
    slots: int = 64
    limits: Mapping[str, object] = field(default_factory=dict)
    extra_env: Mapping[str, str] = field(default_factory=dict)
    edge_env: Mapping[str, str] = field(default_factory=dict)
    worker_env: Mapping[str, str] = field(default_factory=dict)
    # "edge" or "worker": these reach NATS through the process `proxy`, at the port of their variable.
    proxied: str = ""
    # Where a process's code is, by its name, if not here.
    roots: Mapping[str, Path] = field(default_factory=dict)
    # Of nats-server; its streams are in `folder` unless it is told otherwise.
    nats_arguments: Sequence[str] = ()
    # Rows of `providers` in the settings file, beside sim's.
    providers: Mapping[str, object] = field(default_factory=dict)
    # Further sections of the settings file.
    sections: Mapping[str, object] = field(default_factory=dict)
    # Which providers each worker process serves.
    serves: Sequence[str] = ("sim",)
    processes: dict[str, Process] = field(default_factory=dict)
    edges: dict[str, tuple[int, int]] = field(default_factory=dict)

    # Life.

    async def start(self, workers: int = 2, edges: int = 1) -> None:
        self.nats_port = free_port()
        self.sim_port = free_port()
        self.config = self.folder / "millrace.yaml"
        sim = {"base_url": f"http://127.0.0.1:{self.sim_port}/v1", "slots": self.slots}
        settings = {
            "providers": {"sim": sim, **self.providers},
            "limits": {"drain_grace_s": 5, **self.limits},
            **self.sections,
        }
        self.config.write_text(json.dumps(settings))  # JSON is YAML
        self.start_nats()
        if self.proxied:
            env = self.edge_env if self.proxied == "edge" else self.worker_env
            port = env["MILLRACE_NATS"].rpartition(":")[2]
            self.spawn("proxy", "tests.system.tcp_proxy", port, str(self.nats_port))
        self.spawn("sim", "workers.sim", "--host", "127.0.0.1", "--port", str(self.sim_port))
        self.spawn("broker", "broker")
        for n in range(edges):
            self.start_edge(n)
        for n in range(workers):
            self.start_worker(n)
        self.bus: Bus = await connect(
            NatsSettings(url=f"nats://127.0.0.1:{self.nats_port}"), name="test"
        )
        for name in self.edges:
            await until(partial(self.ready, name), f"{name} is ready")
        live = workers * len(self.serves)
        await until(lambda: self.live_workers(live), f"{live} workers are live")

    def start_nats(self) -> None:
        command = [
            str(Path(sys.executable).parent / "nats-server"),
            *(self.nats_arguments or ("-js", "-sd", str(self.folder / "js"))),
            *("-a", "127.0.0.1", "-p", str(self.nats_port)),
        ]
        self._start("nats", command)

    def start_edge(self, number: int) -> None:
        name = f"edge{number}" if number else "edge"
        http, rpc = self.edges.setdefault(name, (free_port(), free_port()))
        env = {"MILLRACE_HTTP": f"127.0.0.1:{http}", "MILLRACE_GRPC": f"127.0.0.1:{rpc}"}
        self.spawn(name, "edge", env={**env, **self.edge_env})

    def start_worker(self, number: int, *providers: str) -> None:
        serves = providers or self.serves
        self.spawn(f"worker{number}", "workers", *serves, env=self.worker_env)

    def spawn(self, name: str, module: str, *args: str, env: Mapping[str, str] = {}) -> None:
        self._start(name, [sys.executable, "-m", module, *args], env)

    def _start(self, name: str, command: list[str], env: Mapping[str, str] = {}) -> None:
        log = self.folder / f"{name}.log"
        whole = {
            **os.environ,
            "MILLRACE_NATS": f"nats://127.0.0.1:{self.nats_port}",
            "MILLRACE_DATA": str(self.folder / "data"),
            "MILLRACE_CONFIG": str(self.config),
            "MILLRACE_API_KEY": KEY,
            **self.extra_env,
            **env,
        }
        with log.open("ab") as out:
            root = self.roots.get(name, ROOT)
            whole["PYTHONPATH"] = str(root)
            popen = subprocess.Popen(command, env=whole, cwd=root, stdout=out, stderr=out)
        self.processes[name] = Process(name, popen, log)

    async def stop(self) -> None:
        await self.bus.close()
        for process in self.processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.popen.send_signal(signal.SIGCONT)
                process.popen.kill()
        for process in self.processes.values():
            process.popen.wait(10)

    def logs(self) -> str:
        return "\n".join(
            f"--- {p.name}\n{p.log.read_text()[-4000:]}" for p in self.processes.values()
        )

    # Talking to it.

    def url(self, edge: str = "edge") -> str:
        return f"http://127.0.0.1:{self.edges[edge][0]}"

    def client(self, edge: str = "edge", timeout_s: float = 60) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=self.url(edge),
            headers={"authorization": f"Bearer {KEY}"},
            timeout=timeout_s,
            limits=httpx.Limits(max_connections=None),
        )

    def channel(self, edge: str = "edge") -> grpc.aio.Channel:
        return grpc.aio.insecure_channel(f"127.0.0.1:{self.edges[edge][1]}")

    async def ready(self, edge: str = "edge") -> bool:
        async with httpx.AsyncClient() as client:
            return (await client.get(f"{self.url(edge)}/readyz")).status_code == 200

    async def load(self, edge: str = "edge") -> control_service_pb2.GetLoadResponse:
        async with self.channel(edge) as channel:
            stub = control_service_pb2_grpc.ControlServiceStub(channel)
            metadata = (("authorization", f"Bearer {KEY}"),)
            return await stub.GetLoad(control_service_pb2.GetLoadRequest(), metadata=metadata)

    async def live_workers(self, count: int) -> bool:
        return len((await self.load()).workers) == count

    async def sim_stats(self) -> dict[str, Any]:
        async with httpx.AsyncClient() as client:
            return dict((await client.get(f"http://127.0.0.1:{self.sim_port}/stats")).json())

    async def open_calls(self, count: int, *, or_more: bool = False) -> bool:
        """Whether so many calls to sim run."""
        running = (await self.sim_stats())["open"]
        return bool(running >= count if or_more else running == count)

    async def reset_sim(self) -> None:
        async with httpx.AsyncClient() as client:
            await client.post(f"http://127.0.0.1:{self.sim_port}/stats/reset")

    async def quiet(self, edge: str = "edge", timeout_s: float = 5.0) -> None:
        """Every gauge of every process is back at 0."""

        async def zero() -> bool:
            load = await self.load(edge)
            stats = await self.sim_stats()
            gauges = [w.gauges for w in load.workers]
            return (
                not (load.in_flight or load.queued or load.published or load.running)
                and not any(g.busy or g.held or g.calls or g.records for g in gauges)
                and not stats["open"]
            )

        await until(zero, "all gauges are back at 0", timeout_s)

    async def queue_empty(self) -> bool:
        return bool((await self.bus.js.stream_info("INT")).state.messages == 0)

    async def ledger(self) -> Ledger:
        ledger = Ledger()
        async for group in usage_groups(self.bus):
            ledger.apply(group)
        return ledger

    async def chat(
        self, client: httpx.AsyncClient, model: str, prompt: str = "hello", **fields: Any
    ) -> httpx.Response:
        body = {"model": model, "messages": [{"role": "user", "content": prompt}], **fields}
        return await client.post("/v1/chat/completions", json=body)

    @contextlib.asynccontextmanager
    async def stream(
        self, client: httpx.AsyncClient, model: str, prompt: str = "hello", **fields: Any
    ) -> AsyncIterator[httpx.Response]:
        messages = [{"role": "user", "content": prompt}]
        body = {"model": model, "messages": messages, "stream": True, **fields}
        async with client.stream("POST", "/v1/chat/completions", json=body) as response:
            yield response

    async def stream_text(
        self, client: httpx.AsyncClient, model: str, prompt: str = "hello", **fields: Any
    ) -> Answer:
        """Read a stream to its end, whatever that is."""
        answer = Answer()
        async with self.stream(client, model, prompt, **fields) as response:
            answer.status = response.status_code
            answer.headers = response.headers
            if response.status_code != 200:
                answer.error = json.loads(await response.aread())["error"]
                return answer
            async for line in response.aiter_lines():
                answer.take(line)
        return answer


@dataclass
class Answer:
    status: int = 0
    text: str = ""
    finish: str | None = None
    done: bool = False
    error: dict[str, Any] | None = None
    ids: set[str] = field(default_factory=set)
    usage: dict[str, Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def take(self, line: str) -> None:
        if not line.startswith("data: "):
            return
        if line == "data: [DONE]":
            self.done = True
            return
        chunk = json.loads(line[6:])
        if "error" in chunk:
            self.error = chunk["error"]
            return
        self.ids.add(chunk["id"])
        self.usage = chunk.get("usage") or self.usage
        for choice in chunk["choices"]:
            self.text += choice["delta"].get("content") or ""
            self.finish = choice["finish_reason"] or self.finish
