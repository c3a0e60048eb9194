"""A real nats-server that tests may kill, freeze and start again on the same port and disk."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from nats.errors import Error as NatsError

from broker.bus import Bus, BusError, connect
from broker.config import NatsSettings
from broker.embedded import find_binary
from tests.ports import free_port


async def until(
    check: Callable[[], Any | Awaitable[Any]], what: str, timeout_s: float = 10.0
) -> Any:
    """Poll until `check` (plain or async) gives something true; fails the test at the deadline."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        found = check()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return found
        await asyncio.sleep(0.01)
    raise AssertionError(f"not within {timeout_s} s: {what}")


class NatsServer:
    def __init__(self, folder: Path, *, jetstream: bool = True) -> None:
        self.port = free_port()
        self.folder = folder / "js"
        self._log = folder / "nats.log"
        self._jetstream = jetstream
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Start, again or for the first time; return when JetStream answers."""
        command = [str(find_binary()), "-a", "127.0.0.1", "-p", str(self.port)]
        if self._jetstream:
            command += ["-js", "-sd", str(self.folder)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        await until(self._listens, "nats-server listens")

    async def _listens(self) -> bool:
        try:
            bus = await connect(self.settings(), name="probe", patience_s=0.5)
        except BusError:
            return False
        try:
            await bus.js.account_info()
        except NatsError:  # JetStream comes a moment after the port
            return not self._jetstream
        finally:
            await bus.close()
        return True

    def settings(self) -> NatsSettings:
        return NatsSettings(url=f"nats://127.0.0.1:{self.port}")

    async def bus(self, name: str = "test") -> Bus:
        return await connect(self.settings(), name=name)

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """kill -9."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def wipe(self) -> None:
        """Lose the disk."""
        shutil.rmtree(self.folder)


class Proxy:
    """A TCP path to the server that can be cut and made a black hole."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._pairs: list[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._flows = asyncio.Event()
        self._flows.set()
        self.port = 0

    async def start(self) -> None:
        """Listen, again after `refuse` on the same port."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = int(self._server.sockets[0].getsockname()[1])

    def refuse(self) -> None:
        """Break every connection and take no new one."""
        self._server.close()
        self.cut()

    def settings(self) -> NatsSettings:
        return NatsSettings(url=f"nats://127.0.0.1:{self.port}")

    def cut(self) -> None:
        """Break every connection; new ones are made."""
        for ours, theirs in self._pairs:
            ours.transport.abort()
            theirs.transport.abort()
        self._pairs.clear()

    def stall(self) -> None:
        """Nothing flows, nobody is told."""
        self._flows.clear()

    def flow(self) -> None:
        self._flows.set()

    async def close(self) -> None:
        self._server.close()
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        self._pairs.append((writer, up_writer))
        for source, sink in ((reader, up_writer), (up_reader, writer)):
            task = asyncio.create_task(self._copy(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _copy(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(1 << 16):
                await self._flows.wait()
                sink.write(data)
                await sink.drain()
        sink.transport.abort()
