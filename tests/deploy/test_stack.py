"""Every service of compose.yaml, started with its own command and environment as local processes.

Docker is not needed: host names become 127.0.0.1 and ports become free ones, and nothing else of a
service's definition is changed.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from broker.v1 import content_pb2, generation_pb2, inference_service_pb2
from broker.v1.inference_service_pb2_grpc import InferenceServiceStub
from tests.ports import free_port

Services = dict[str, dict[str, Any]]

BIN = Path(sys.executable).parent
# What a user would add to .env for each provider: here all of them are the make-believe one.
PROVIDERS = {
    "OPENAI_API_KEY": "sk-unused",
    "OPENAI_BASE_URL": "http://sim:9000/v1",
    "ANTHROPIC_API_KEY": "sk-unused",
    "ANTHROPIC_BASE_URL": "http://sim:9000",
    "OPENAI_COMPATIBLE_BASE_URL": "http://sim:9000/v1",
}
# The other workers differ in their names alone.
PROFILES = {"openai", "anthropic", "openai_compatible"}
REPLICAS = {"edge": 2, "worker-sim": 2}


@dataclass(frozen=True)
class Running:
    """One replica of a service."""

    service: str
    process: subprocess.Popen[bytes]
    log: Path

    def tail(self) -> str:
        """The end of what it said."""
        return self.log.read_text()[-3000:]


class Stack:
    """The services as processes."""

    def __init__(self, services: Services, root: Path, folder: Path) -> None:
        self.services = services
        self.running: list[Running] = []
        self._root = root
        self._folder = folder
        # One port for each (service, replica, port in the file).
        self._ports: dict[tuple[str, int, int], int] = defaultdict(free_port)

    def port(self, service: str, written: int, replica: int = 0) -> int:
        return self._ports[service, replica, written]

    def start(self) -> None:
        """Start everything in the order that the file asks for, each once those before are healthy."""
        waiting = {
            name: row
            for name, row in self.services.items()
            if PROFILES.issuperset(row.get("profiles", ()))
        }
        if not shutil.which("haproxy"):
            del waiting["lb"]
        while waiting:
            name = next(
                n
                for n, row in waiting.items()
                if not waiting.keys() & row.get("depends_on", {}).keys()
            )
            row = waiting.pop(name)
            for replica in range(REPLICAS.get(name, 1)):
                running = self._start(name, row, replica)
                self.wait_until_healthy(running, replica)

    def _start(self, name: str, row: Mapping[str, Any], replica: int) -> Running:
        folder = self._folder / f"{name}-{replica}"
        folder.mkdir()
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            # The image's own; the others are overridden by every service that they matter to.
            "MILLRACE_DATA": str(folder / "data"),
            **{
                key: self._local(value, name, replica)
                for key, value in row.get("environment", {}).items()
            },
        }
        log = folder / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                self._command(name, row, replica, folder),
                env=environment,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.running.append(Running(name, process, log))
        return self.running[-1]

    def _command(self, name: str, row: Mapping[str, Any], replica: int, folder: Path) -> list[str]:
        mounts = dict(mount.split(":")[:2][::-1] for mount in row.get("volumes", []))
        if name == "nats":
            text = (self._root / mounts["/etc/nats/nats.conf"]).read_text()
            for written in (4222, 8222):
                text = re.sub(
                    rf'"[\d.]+:{written}"', f'"127.0.0.1:{self.port(name, written)}"', text
                )
            (folder / "nats.conf").write_text(text.replace('"/data"', f'"{folder}/data"'))
            arguments = [arg.replace("/etc/nats", str(folder)) for arg in row["command"]]
            return [str(BIN / "nats-server"), *arguments]
        if name == "lb":
            text = (self._root / mounts["/usr/local/etc/haproxy/haproxy.cfg"]).read_text()
            (folder / "haproxy.cfg").write_text(self._balancer(text))
            return ["haproxy", "-db", "-f", str(folder / "haproxy.cfg")]
        return [str(BIN / "millrace"), *(self._local(arg, name, replica) for arg in row["command"])]

    def _balancer(self, text: str) -> str:
        def servers(match: re.Match[str]) -> str:
            port, options = int(match[1]), match[2].replace("resolvers docker init-addr none", "")
            return "\n".join(
                f"  server edge{n} 127.0.0.1:{self.port('edge', port, n)} "
                + options.replace("port 8000", f"port {self.port('edge', 8000, n)}")
                for n in range(REPLICAS["edge"])
            )

        text = re.sub(
            r"^  server-template edge \d+ edge:(\d+)(.*)$", servers, text, flags=re.MULTILINE
        )
        return re.sub(
            r"bind (?:127\.0\.0\.1)?:(\d+)",
            lambda match: f"bind 127.0.0.1:{self.port('lb', int(match[1]))}",
            text,
        )

    def _local(self, text: str, service: str, replica: int) -> str:
        """`text` of a service's definition with addresses that exist on this machine."""
        text = re.sub(
            r"(?<!\w)(nats|sim):(\d+)", lambda m: f"127.0.0.1:{self.port(m[1], int(m[2]))}", text
        )
        # Ports of its own: an address to listen on or advertise, and sim's --port.
        text = re.sub(
            r"^(:?)(8000|8001|8002|9000)$",
            lambda m: m[1] + str(self.port(service, int(m[2]), replica)),
            text,
        )
        return text if text != "0.0.0.0" else "127.0.0.1"

    def wait_until_healthy(self, running: Running, replica: int = 0, within_s: float = 30) -> None:
        check = self.services[running.service]["healthcheck"]["test"]
        command = [self._check(part, running.service, replica) for part in check[1:]]
        if check[0] == "CMD-SHELL":
            command = ["sh", "-c", *command]
        elif command[0] == "python":
            command[0] = sys.executable
        elif not shutil.which(command[0]):
            fetch = "import sys, urllib.request as u; u.urlopen(sys.argv[1])"
            command = [sys.executable, "-c", fetch, command[-1]]
        end = time.monotonic() + within_s
        while (
            last := subprocess.run(command, capture_output=True, timeout=20, check=False)
        ).returncode:
            assert running.process.poll() is None, f"{running.service} ended\n{running.tail()}"
            assert time.monotonic() < end, (
                f"{running.service} is not healthy: {last.stderr!r}\n{running.tail()}"
            )
            time.sleep(0.1)

    def _check(self, part: str, service: str, replica: int) -> str:
        part = part.replace(":105E ", f":{self.port('nats', 4222):04X} ")
        return re.sub(
            r"(?<=127\.0\.0\.1:)\d+", lambda m: str(self.port(service, int(m[0]), replica)), part
        )

    def check_alive(self) -> None:
        for running in self.running:
            assert running.process.poll() is None, f"{running.service} ended\n{running.tail()}"

    def stop(self, running: Running) -> int:
        """Stop it as Docker would; the exit code."""
        row = self.services[running.service]
        grace = int(row["stop_grace_period"].removesuffix("s"))
        running.process.send_signal(getattr(signal, row.get("stop_signal", "SIGTERM")))
        return running.process.wait(grace)

    def kill(self) -> None:
        for running in self.running:
            if running.process.poll() is None:
                os.killpg(running.process.pid, signal.SIGKILL)
                running.process.wait()


@pytest.fixture
def stack(
    read_compose: Callable[..., Services], secrets: dict[str, str], root: Path, tmp_path: Path
) -> Iterator[Stack]:
    made = Stack(read_compose(**secrets, **PROVIDERS), root, tmp_path)
    try:
        made.start()
        yield made
    finally:
        made.kill()


def ask(url: str, key: str, model: str) -> httpx.Response:
    return httpx.post(
        f"{url}/v1/chat/completions",
        headers={"authorization": f"Bearer {key}"},
        json={"model": model, "messages": [{"role": "user", "content": "hello"}]},
        timeout=30,
    )


def says_hello(url: str, key: str, model: str) -> bool:
    answer = ask(url, key, model)
    assert answer.status_code in (200, 404), answer.text
    return answer.status_code == 200 and bool(answer.json()["choices"][0]["message"]["content"])


def eventually(stack: Stack, true: Callable[[], bool], within_s: float = 20) -> None:
    end = time.monotonic() + within_s
    while not true():
        stack.check_alive()
        assert time.monotonic() < end, "did not come true in time"
        time.sleep(0.1)


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def test_the_services_answer_over_every_edge_survive_a_lost_worker_and_stop_when_asked(
    stack: Stack, secrets: dict[str, str]
) -> None:
    key = secrets["MILLRACE_API_KEY"]
    edges = [f"http://127.0.0.1:{stack.port('edge', 8000, n)}" for n in range(REPLICAS["edge"])]
    for edge in edges:
        eventually(stack, partial(answers, f"{edge}/readyz"))
        for provider in ("sim", "openai", "openai_compatible"):
            # Ready means one worker; each pool is on once its own worker is there.
            eventually(stack, partial(says_hello, edge, key, f"{provider}/sim"))
        assert ask(edge, "mr-wrong", "sim/sim").status_code == 401

    if shutil.which("haproxy"):
        front = f"http://127.0.0.1:{stack.port('lb', 8000)}"
        eventually(stack, lambda: answers(f"{front}/readyz"))
        assert ask(front, key, "sim/sim").status_code == 200
    grpc_port = stack.port("lb" if shutil.which("haproxy") else "edge", 8001)
    assert infer(f"127.0.0.1:{grpc_port}", key)

    lost = next(running for running in stack.running if running.service == "worker-sim")
    lost.process.kill()
    lost.process.wait()
    assert [ask(edge, key, "sim/sim").status_code for edge in edges * 4] == [200] * 8

    # Docker stops in the opposite order of starting.
    for running in reversed(stack.running):
        if running is not lost:
            assert stack.stop(running) == 0, running.tail()
            assert "Traceback" not in running.log.read_text(), running.tail()


def infer(address: str, key: str) -> str:
    """The text that the public gRPC API answers with."""
    request = generation_pb2.Request(
        generate=generation_pb2.GenerateRequest(
            model="sim/sim",
            messages=[
                content_pb2.Message(
                    role=content_pb2.ROLE_USER,
                    parts=[content_pb2.Part(text=content_pb2.Text(text="hello"))],
                )
            ],
        )
    )
    with grpc.insecure_channel(address) as channel:
        answer = InferenceServiceStub(channel).Infer(
            inference_service_pb2.InferRequest(request=request),
            metadata=(("authorization", f"Bearer {key}"),),
            timeout=30,
            wait_for_ready=True,
        )
    return "".join(part.text.text for part in answer.answer.choices[0].message.parts)
