"""What is measured: a running gateway, where it listens, and which processes it is made of."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.litellm import config, installed
from bench.meter import Roles, family
from bench.phases import Phase
from bench.processes import BenchError, answers, free_port, listening, module, running

KEY = "mr-bench-0123456789abcdef0123456789abcdef"
_MILLRACE_READY_SECONDS = 60.0
_LITELLM_READY_SECONDS = 120.0


@dataclass(frozen=True)
class Target:
    """A gateway under load.

    `model` gives the name by which it knows a phase's model, `roles` its processes at the moment.
    """

    name: str
    host: str
    port: int
    model: Callable[[Phase], str]
    roles: Callable[[], Roles]
    key: str = KEY


@dataclass(frozen=True)
class Place:
    """Where a target may keep its files, and the simulator behind it."""

    folder: Path
    sim: Target


@contextlib.contextmanager
def direct(folder: Path) -> Iterator[Target]:
    """The simulator itself: what an answer costs with nothing in between."""
    log = folder / "sim.log"
    with running(module("workers.sim"), log=log) as process:
        host, port = listening(process, log)
        yield Target(
            "direct", host, port, lambda phase: phase.model, lambda: {"sim": [process.pid]}
        )


@contextlib.contextmanager
def relay(place: Place) -> Iterator[Target]:
    """The bare aiohttp relay."""
    log = place.folder / "relay.log"
    upstream = f"http://{place.sim.host}:{place.sim.port}"
    with running(module("bench.relay", "--upstream", upstream), log=log) as process:
        host, port = listening(process, log)
        roles = {"relay": [process.pid]}
        yield Target("relay", host, port, lambda phase: phase.model, lambda: roles)


@contextlib.contextmanager
def millrace(place: Place) -> Iterator[Target]:
    """`millrace up`, as it comes: edge, worker, broker, an embedded NATS, and its own sim."""
    data, log = place.folder / "millrace", place.folder / "millrace.log"
    command = Path(sys.executable).parent / "millrace"
    if not command.exists():
        raise BenchError(f"{command} is not there: make install")
    port = free_port()
    # Only sim may be on: with the caller's keys set, up would start more workers than are measured.
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.endswith(("_API_KEY", "_BASE_URL")) and not name.startswith("MILLRACE_")
    }
    environment |= {
        "MILLRACE_API_KEY": KEY,
        "MILLRACE_DATA": str(data),
        "MILLRACE_HTTP": f"127.0.0.1:{port}",
        "MILLRACE_GRPC": f"127.0.0.1:{free_port()}",
    }
    with running([str(command), "up"], log=log, environment=environment, piped=False) as process:
        answers(process, port, "/readyz", log=log, seconds=_MILLRACE_READY_SECONDS)
        yield Target(
            "millrace",
            "127.0.0.1",
            port,
            lambda phase: f"sim/{phase.model}",
            lambda: _listed(data / "run" / "processes.json"),
        )


def _listed(path: Path) -> Roles:
    roles: dict[str, list[int]] = {}
    for entry in json.loads(path.read_text()):
        roles.setdefault(entry["role"], []).append(entry["pid"])
    return roles


@contextlib.contextmanager
def litellm(place: Place) -> Iterator[Target]:
    """LiteLLM's proxy with one worker process and a master key, its defaults otherwise."""
    log = place.folder / "litellm.log"
    command = installed()
    port = free_port()
    settings = place.folder / "litellm.yaml"
    settings.write_text(config(f"http://{place.sim.host}:{place.sim.port}/v1", KEY))
    arguments = ["--config", str(settings), "--host", "127.0.0.1", "--port", str(port)]
    # Prices come with the package; otherwise it fetches them at start.
    environment = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}
    with running(
        [str(command), *arguments, "--num_workers", "1"],
        log=log,
        environment=environment,
        piped=False,
    ) as process:
        answers(process, port, "/health/liveliness", log=log, seconds=_LITELLM_READY_SECONDS)
        yield Target(
            "litellm",
            "127.0.0.1",
            port,
            lambda phase: phase.name,
            lambda: {"litellm": family(process.pid)},
        )


STARTERS: dict[str, Callable[[Place], contextlib.AbstractContextManager[Target]]] = {
    "relay": relay,
    "millrace": millrace,
    "litellm": litellm,
}
