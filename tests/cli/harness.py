"""Starts the installed command as its users do: in a process of its own, with a clean environment."""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from broker.rundir import RunFolder

MILLRACE = str(Path(sys.executable).parent / "millrace")
READY_S = 30

_OURS = re.compile(r"MILLRACE_.*|.*_API_KEY|.*_BASE_URL")


def clean_environment(**extra: str) -> dict[str, str]:
    """This environment without any setting of ours or any provider's key."""
    kept = {name: value for name, value in os.environ.items() if not _OURS.fullmatch(name)}
    return kept | extra


def millrace(
    *arguments: str, env: Mapping[str, str] | None = None, cwd: Path | None = None, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [MILLRACE, *arguments],
        env=clean_environment(**(env or {})),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
        **options,
    )


class Up:
    """A running `millrace up`."""

    def __init__(self, data: Path, *arguments: str, log: Path, env: Mapping[str, str]) -> None:
        self.data = data
        self.log = log
        self.folder = RunFolder(data)
        ports = ("--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0")
        with log.open("wb") as stderr:
            self.process = subprocess.Popen(
                [MILLRACE, "up", "--data", str(data), *ports, *arguments],
                env=clean_environment(**env),
                cwd=log.parent,
                stdout=subprocess.PIPE,
                stderr=stderr,
                bufsize=0,
            )
        self.banner = ""

    def wait_ready(self) -> None:
        """Read the banner, which comes once requests are served."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + READY_S
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while "\ncurl " not in self.banner or not self.banner.endswith("\n"):
                assert time.monotonic() < deadline, f"not ready:\n{self.log.read_text()}"
                if selector.select(0.5):
                    data = os.read(self.process.stdout.fileno(), 65536)
                    assert data, f"ended instead of starting:\n{self.log.read_text()}"
                    self.banner += data.decode()

    @property
    def http(self) -> str:
        found = re.search(r"http://(\S+?)  \(gRPC", self.banner)
        assert found
        return found[1]

    @property
    def grpc(self) -> str:
        found = re.search(r"\(gRPC (\S+)\)", self.banner)
        assert found
        return found[1]

    @property
    def api_key(self) -> str:
        found = re.search(r"API key: +(\S+)", self.banner)
        assert found
        return found[1]

    @property
    def curl(self) -> str:
        return next(line for line in self.banner.splitlines() if line.startswith("curl "))

    @property
    def env(self) -> dict[str, str]:
        """What commands need to find it."""
        return {
            "MILLRACE_DATA": str(self.data),
            "MILLRACE_HTTP": self.http,
            "MILLRACE_GRPC": self.grpc,
        }

    def pids(self) -> dict[tuple[str, str], int]:
        """The children by role and name."""
        rows: list[Any] = self.folder.processes()
        return {(row["role"], row["name"]): row["pid"] for row in rows}

    def stop(self, seconds: float = 45) -> int:
        """Ctrl-C; returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        return self.process.wait(seconds)


Start = Callable[..., Up]


@contextlib.contextmanager
def starting(folder: Path) -> Iterator[Start]:
    """A function that starts `millrace up`; what still runs at the end is killed."""
    started: list[Up] = []

    def start(
        *arguments: str,
        data: Path | None = None,
        env: Mapping[str, str] | None = None,
        ready: bool = True,
    ) -> Up:
        log = folder / f"up-{len(started)}.log"
        up = Up(data or folder / "data", *arguments, log=log, env=env or {})
        started.append(up)
        if ready:
            up.wait_ready()
        return up

    try:
        yield start
    finally:
        for up in started:
            up.process.kill()
            up.process.wait()
            assert up.process.stdout is not None
            up.process.stdout.close()


def until(claim: Callable[[], bool], seconds: float = 10, why: str = "") -> None:
    """Wait for something to become true."""
    deadline = time.monotonic() + seconds
    while not claim():
        assert time.monotonic() < deadline, why or "it never became true"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    """Whether the process runs; one that nobody has waited for yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False
