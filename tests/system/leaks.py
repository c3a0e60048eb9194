"""What processes hold on to: open files and sockets, memory, tasks; and NATS its consumers."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from pathlib import Path

from tests.system.stack import Process, Stack


@dataclass(frozen=True)
class Held:
    """Of one process; `memory` is in MB."""

    sockets: int
    files: int
    memory: int


def held(process: Process) -> Held:
    """Open sockets and other files of a process, and its resident memory."""
    folder = Path(f"/proc/{process.popen.pid}")
    targets = []
    for link in (folder / "fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            targets.append(str(link.readlink()))
    sockets = sum(target.startswith("socket:") for target in targets)
    found = re.search(r"VmRSS:\s+(\d+)", (folder / "status").read_text())
    return Held(sockets, len(targets) - sockets, int(found[1]) // 1024 if found else 0)


async def consumers(stack: Stack) -> dict[str, int]:
    """Consumers by stream."""
    streams = await stack.bus.js.streams_info()
    return {info.config.name or "": info.state.consumer_count for info in streams}


async def tasks(stack: Stack, edge: str = "edge") -> int:
    """asyncio tasks of an edge."""
    return int((await stack.load(edge)).tasks)


async def worker_tasks(stack: Stack, edge: str = "edge") -> list[int]:
    """asyncio tasks of each worker, as it said last."""
    return [worker.gauges.tasks for worker in (await stack.load(edge)).workers]
