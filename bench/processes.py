"""Starts and stops the processes of a run; every wait has a deadline and says what it was for."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

_STOP_SECONDS = 15.0
_POLL_SECONDS = 0.05
# Where a `python -m` finds this project's packages.
ROOT = Path(__file__).resolve().parent.parent


class BenchError(Exception):
    """The run cannot go on; the message says why."""


class _Signals:
    """Leaves on SIGTERM and Ctrl-C, but never between starting a process and knowing of it."""

    def __init__(self) -> None:
        self.held = False
        self._came = False

    def handle(self, *_: object) -> None:
        self._came = True
        if not self.held:
            self.release()

    def release(self) -> None:
        self.held = False
        if self._came:
            self._came = False
            sys.exit("bench: stopped")


_signals = _Signals()


def leave_on_signals() -> None:
    """Makes SIGTERM and Ctrl-C stop the processes of a run on the way out."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _signals.handle)


@contextlib.contextmanager
def running(
    command: Sequence[str],
    *,
    log: Path,
    environment: Mapping[str, str] | None = None,
    piped: bool = True,
) -> Iterator[subprocess.Popen[str]]:
    """A process in a group of its own, stopped in the end.

    Its standard error goes to `log`; so does its output unless `piped`, for nobody may read it.
    """
    with log.open("w") as output:
        _signals.held = True
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE if piped else subprocess.DEVNULL,
                stdout=subprocess.PIPE if piped else output,
                stderr=output,
                text=True,
                cwd=ROOT,
                env=None if environment is None else dict(environment),
                start_new_session=True,
            )
        except OSError:
            _signals.release()
            raise
    try:
        _signals.release()
        yield process
    finally:
        _stop(process)


def module(name: str, *arguments: str) -> list[str]:
    """The command that runs one of this project's modules."""
    return [sys.executable, "-m", name, *arguments]


def listening(process: subprocess.Popen[str], log: Path, seconds: float = 20.0) -> tuple[str, int]:
    """Host and port, from the line {"listening": "HOST:PORT"} that a process prints."""
    line = _line(process, seconds)
    try:
        host, _, port = json.loads(line)["listening"].rpartition(":")
        return host, int(port)
    except (ValueError, KeyError) as exc:
        raise BenchError(f"{process.args!r} did not start\n{tail(log)}") from exc


def answers(
    process: subprocess.Popen[str], port: int, path: str, *, log: Path, seconds: float
) -> None:
    """Waits until GET `path` is answered with 200 on 127.0.0.1."""
    deadline = time.monotonic() + seconds
    while not _is_200(port, path):
        if process.poll() is not None:
            raise BenchError(f"{process.args!r} ended with {process.returncode}\n{tail(log)}")
        if time.monotonic() > deadline:
            raise BenchError(
                f"{process.args!r} did not answer {path} in {seconds:g} s\n{tail(log)}"
            )
        time.sleep(_POLL_SECONDS)


def free_port() -> int:
    """A port that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def tail(log: Path, lines: int = 15) -> str:
    """The end of a log file."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def _line(process: subprocess.Popen[str], seconds: float) -> str:
    assert process.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        return process.stdout.readline() if selector.select(seconds) else ""


def _is_200(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _stop(process: subprocess.Popen[str]) -> None:
    """Asks the process to leave, then ends its whole group."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
