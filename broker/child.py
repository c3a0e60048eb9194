"""One child process: started, its output passed on, started again when it dies, ended when asked.

Children live in sessions of their own, so that Ctrl-C reaches the supervisor alone, and die with
it even when it is killed with SIGKILL (Linux; elsewhere they are orphaned then).
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

# The wait before a dead child is started again doubles from the first to the last, in seconds.
FIRST_DELAY_S = 0.2
LAST_DELAY_S = 5.0
# A child that lives shorter than this has died at once.
LIVED_S = 3.0
QUICK_DEATHS = 5
TAIL_LINES = 12

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


class ChildError(Exception):
    """A child cannot be kept alive; the message ends with its last lines."""


def _every_line(line: str) -> bool:
    return bool(line)


@dataclass(frozen=True, slots=True)
class Program:
    """What to run. `command` is asked at every start, `shows` says which lines are passed on."""

    role: str
    name: str
    command: Callable[[], Sequence[str]]
    env: Mapping[str, str]
    shows: Callable[[str], bool] = _every_line

    @property
    def title(self) -> str:
        """How messages call it: "worker openai", or "edge"."""
        return self.role if self.role == self.name else f"{self.role} {self.name}"


class Child:
    """Keeps one program running.

    Args:
        program: what to run.
        say: takes a line about the child, `pass_on` a line the child wrote.
        changed: called whenever `pid` has changed.
    """

    def __init__(
        self,
        program: Program,
        *,
        say: Callable[[str], None],
        pass_on: Callable[[str], None],
        changed: Callable[[], None],
    ) -> None:
        self.program = program
        self.pid: int | None = None
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._say = say
        self._pass_on = pass_on
        self._changed = changed
        self._stopping = asyncio.Event()
        self._ended = asyncio.Event()
        self._line_wanted: tuple[str, asyncio.Future[str]] | None = None

    def line_starting(self, prefix: str) -> asyncio.Future[str]:
        """The first line the child writes that starts so; it is not passed on."""
        found: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._line_wanted = (prefix, found)
        return found

    async def run(self) -> None:
        """Keep the child alive until `stop`; raises `ChildError` when it keeps dying at once."""
        delay, quick = FIRST_DELAY_S, 0
        loop = asyncio.get_running_loop()
        try:
            while not self._stopping.is_set():
                started = loop.time()
                code = await self._once()
                if self._stopping.is_set():
                    return
                if loop.time() - started >= LIVED_S:
                    delay, quick = FIRST_DELAY_S, 0
                # SIGKILL comes from outside: it says nothing about whether the program works.
                elif code != -signal.SIGKILL:
                    quick += 1
                if quick >= QUICK_DEATHS:
                    raise ChildError(self._why(code))
                self._say(f"{self.program.title} {_ending(code)}; starting it again")
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), delay)
                delay = min(delay * 2, LAST_DELAY_S)
        finally:
            self._ended.set()

    async def stop(self, grace_s: float) -> None:
        """End the child: SIGTERM, and SIGKILL when it is still there after `grace_s`."""
        self._stopping.set()
        self._signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self._ended.wait(), grace_s)
        except TimeoutError:
            self._say(f"{self.program.title} did not end within {grace_s:.0f} s; killing it")
            self.kill()
            await self._ended.wait()

    def kill(self) -> None:
        """End the child and whatever it started, now."""
        self._stopping.set()
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        if self.pid is None:
            return
        with contextlib.suppress(ProcessLookupError):
            if number == signal.SIGKILL:
                os.killpg(self.pid, number)
            else:
                os.kill(self.pid, number)

    async def _once(self) -> int:
        """Run it once; returns the exit code, minus the signal's number if one ended it."""
        try:
            process = await asyncio.create_subprocess_exec(
                *self.program.command(),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env=dict(self.program.env),
                start_new_session=True,
                preexec_fn=_dies_with(os.getpid()) if _libc else None,
            )
        except OSError as exc:
            raise ChildError(f"{self.program.title} cannot be started: {exc}") from exc
        self.pid = process.pid
        self.tail.clear()
        self._changed()
        reading = asyncio.ensure_future(self._read(process))
        if self._stopping.is_set():
            # Asked to stop while the process was being made: nobody has signalled it yet.
            self._signal(signal.SIGTERM)
        try:
            return await process.wait()
        finally:
            self.pid = None
            self._changed()
            # A grandchild may hold the pipe open: what it writes is of no interest.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(reading, 0.5)

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None  # noqa: S101 - a pipe was asked for
        rest = b""
        while data := await process.stdout.read(65536):
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                self._line(line.decode(errors="replace").rstrip())
        if rest:
            self._line(rest.decode(errors="replace"))

    def _line(self, line: str) -> None:
        if self._line_wanted and line.startswith(self._line_wanted[0]):
            wanted, self._line_wanted = self._line_wanted[1], None
            if not wanted.done():
                wanted.set_result(line)
            return
        self.tail.append(line)
        if self.program.shows(line):
            self._pass_on(line)

    def _why(self, code: int) -> str:
        lines = "\n".join(f"  {line}" for line in self.tail)
        return (
            f"{self.program.title} {_ending(code)} right after its start, "
            f"{QUICK_DEATHS} times in a row; its last lines:\n{lines}"
        )


def _ending(code: int) -> str:
    """How a process ended, in words."""
    if code >= 0:
        return f"exited with code {code}"
    with contextlib.suppress(ValueError):
        return f"was ended by {signal.Signals(-code).name}"
    return f"was ended by signal {-code}"


def _dies_with(parent: int) -> Callable[[], None]:
    """For the child, before it runs: be killed when the parent is gone."""

    def arrange() -> None:
        if _libc is not None:
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return arrange
