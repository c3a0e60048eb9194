"""Measures batches: `python -m bench.batch --lines 100000`; no edges, all processes real.

Prints how fast an input is validated, lines a second, what each process has of memory and of the
CPU for a line, and what nats-server keeps of a line on disk; and beside it what the same workers
do of single requests, measured before and after the batch.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench.meter import Roles, cpu_by_role, memory_by_role
from bench.processes import (
    ROOT,
    BenchError,
    free_port,
    leave_on_signals,
    listening,
    module,
    running,
)
from broker.batch import names, states
from broker.bus import Bus, BusError, connect
from broker.bus.batches import Batches
from broker.bus.files import Files
from broker.bus.lease import TTL_S
from broker.bus.mirror import Mirror
from broker.config import NatsSettings
from broker.embedded import find_binary
from broker.v1 import batch_pb2, file_pb2

_OWNER = "bench"
_ENDPOINT = "/v1/chat/completions"
_PIECE_LINES = 2000
_LOOK_S = 0.25
_STREAMS = ("BAT", "RES", "USAGE")
# Single requests that are measured before and after the batch.
_UNARY_REQUESTS = 20_000
# The goals: validation of a million lines in seconds, bytes of each Python process, and lines a
# second as a part of single requests a second. Fewer lines need not be as fast.
_VALIDATED_S, _RSS, _PART = 30.0, 150e6, 0.8
_SPENT = ("broker", "worker")
# Memory is told of this part of the lines, too: it must not grow with them.
_EARLY = 0.1


@dataclass
class Figures:
    """What was measured; memory in bytes, the largest that was seen."""

    lines: int
    validation_s: float = 0.0
    run_s: float = 0.0
    files_s: float = 0.0
    rss: dict[str, int] = field(default_factory=dict)
    early_rss: dict[str, int] = field(default_factory=dict)
    cpu_us: dict[str, float] = field(default_factory=dict)
    files_cpu_us: dict[str, float] = field(default_factory=dict)
    stored: dict[str, float] = field(default_factory=dict)
    # Single requests: how many a second, and CPU for one by role; before and after the batch.
    unary_rps: list[float] = field(default_factory=list)
    unary_cpu_us: list[dict[str, float]] = field(default_factory=list)


def main() -> None:
    """Runs one batch and prints its figures."""
    parser = argparse.ArgumentParser(prog="python -m bench.batch", description=__doc__)
    parser.add_argument("--lines", type=int, default=20_000)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--model", default="sim/tokens=8")
    parser.add_argument(
        "--distinct", type=int, default=0, help="so many prompts are different, each asked once"
    )
    parser.add_argument("--unary", type=int, default=_UNARY_REQUESTS, help="0 leaves them out")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    arguments = parser.parse_args()
    leave_on_signals()
    try:
        with tempfile.TemporaryDirectory(prefix="millrace-bench-") as folder:
            figures = asyncio.run(_measure(Path(folder), arguments))
    except (BenchError, BusError) as exc:
        sys.exit(f"bench: {exc}")
    print(json.dumps(vars(figures)) if arguments.json else _text(figures))
    sys.exit(bool(missed(figures)))


async def _measure(folder: Path, arguments: argparse.Namespace) -> Figures:
    figures = Figures(arguments.lines)
    with _processes(folder, arguments.workers, arguments.slots) as (environment, roles):
        bus = await connect(NatsSettings(url=environment["MILLRACE_NATS"]), name="bench")
        try:
            await _workers(bus, arguments.workers)
            await _unary(environment, roles, figures, arguments)
            await _run(bus, roles, figures, arguments)
            await _unary(environment, roles, figures, arguments)
        finally:
            await bus.close()
    return figures


@contextlib.contextmanager
def _processes(folder: Path, workers: int, slots: int) -> Iterator[tuple[Mapping[str, str], Roles]]:
    """nats, sim, one broker process and workers; their environment, and their ids by role."""
    port = free_port()
    url = f"nats://127.0.0.1:{port}"
    settings = folder / "millrace.yaml"
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("MILLRACE_")
    }
    environment |= {"MILLRACE_NATS": url, "MILLRACE_CONFIG": str(settings), "GOMAXPROCS": "1"}
    server = [str(find_binary()), "-js", "-sd", str(folder / "js"), "-a", "127.0.0.1"]
    roles: dict[str, list[int]] = {}
    with contextlib.ExitStack() as stack:

        def start(role: str, command: list[str]) -> None:
            log = folder / f"{role}{len(roles.get(role, ()))}.log"
            made = running(command, log=log, environment=environment, piped=role == "sim")
            process = stack.enter_context(made)
            roles.setdefault(role, []).append(process.pid)
            if role == "sim":
                host, at = listening(process, log)
                sim = {"base_url": f"http://{host}:{at}/v1", "slots": slots}
                settings.write_text(json.dumps({"providers": {"sim": sim}}))

        start("nats", [*server, "-p", str(port)])
        start("sim", module("workers.sim"))
        start("broker", module("broker"))
        for _ in range(workers):
            start("worker", module("workers", "sim"))
        yield environment, roles


async def _workers(bus: Bus, count: int) -> None:
    mirror = Mirror(bus, "workers", keys="w.>")
    await mirror.start()
    deadline = time.monotonic() + 3 * TTL_S
    while len(mirror.entries) < count:
        if time.monotonic() > deadline:
            raise BenchError("the workers did not come")
        await asyncio.sleep(0.1)
    await mirror.close()


async def _lines(count: int, model: str, distinct: int) -> AsyncIterator[bytes]:
    for start in range(0, count, _PIECE_LINES):
        yield b"".join(
            b'{"custom_id":"request-%d","method":"POST","url":"%b","body":{"model":"%b",'
            b'"messages":[{"role":"user","content":"Say the number %d."}]}}\n'
            % (number, _ENDPOINT.encode(), model.encode(), number % distinct)
            for number in range(start, min(start + _PIECE_LINES, count))
        )


async def _unary(
    environment: Mapping[str, str], roles: Roles, figures: Figures, arguments: argparse.Namespace
) -> None:
    """What the workers do of single requests."""
    if not arguments.unary:
        return
    options = ("--requests", str(arguments.unary), "--model", arguments.model)
    cpu = cpu_by_role(roles)
    process = await asyncio.create_subprocess_exec(
        *module("bench.unary", *options), env=environment, cwd=ROOT, stdout=subprocess.PIPE
    )
    printed, _ = await process.communicate()
    used = cpu_by_role(roles)
    if process.returncode:
        raise BenchError("single requests could not be measured")
    report = json.loads(printed)
    if report["errors"]:
        raise BenchError(f"{report['errors']} single requests were not answered")
    figures.unary_rps.append(report["requests"] / report["seconds"])
    figures.unary_cpu_us.append(
        {role: (used[role] - cpu[role]) / 1000 / report["requests"] for role in roles}
    )


async def _run(bus: Bus, roles: Roles, figures: Figures, arguments: argparse.Namespace) -> None:
    batches, count = Batches(bus), figures.lines
    asked = file_pb2.StoredFile(
        owner=_OWNER, tenant=_OWNER, purpose=file_pb2.FILE_PURPOSE_BATCH, filename="bench.jsonl"
    )
    file = await Files(bus).put(asked, _lines(count, arguments.model, arguments.distinct or count))
    now = time.time_ns() // 1_000_000
    record = batch_pb2.StoredBatch(
        id=names.new_id(now, os.urandom(10)),
        owner=_OWNER,
        tenant=_OWNER,
        status=states.VALIDATING,
        endpoint=_ENDPOINT,
        input_file_id=file.id,
        created_at=now // 1000,
        expires_at=now // 1000 + 86_400,
        options=batch_pb2.BatchOptions(large=True, dedupe=arguments.distinct > 0),
        paused=True,
    )
    begun = time.monotonic()
    await batches.create(record)
    await _until(bus, record.id, roles, figures, states.IN_PROGRESS)
    figures.validation_s = time.monotonic() - begun
    cpu, stored = cpu_by_role(roles), await _stored(bus)
    begun = time.monotonic()
    await batches.change(_OWNER, record.id, states.resume)
    await _until(bus, record.id, roles, figures, states.FINALIZING)
    figures.run_s = time.monotonic() - begun
    used = cpu_by_role(roles)
    figures.cpu_us = {role: (used[role] - cpu[role]) / 1000 / count for role in roles}
    for name, size in (await _stored(bus)).items():
        figures.stored[name] = (size - stored[name]) / count
    begun = time.monotonic()
    done = await _until(bus, record.id, roles, figures, states.COMPLETED)
    figures.files_s = time.monotonic() - begun
    ended = cpu_by_role(roles)
    figures.files_cpu_us = {role: (ended[role] - used[role]) / 1000 / count for role in roles}
    if done.progress.completed != count:
        raise BenchError(f"{count - done.progress.completed} of {count} lines were not answered")


async def _stored(bus: Bus) -> dict[str, int]:
    """Bytes of the streams that lines leave something in."""
    return {name: (await bus.js.stream_info(name)).state.bytes for name in _STREAMS}


async def _until(
    bus: Bus,
    batch_id: str,
    roles: Roles,
    figures: Figures,
    status: batch_pb2.BatchStatus.ValueType,
) -> batch_pb2.StoredBatch:
    """The record once it has this state or a later one; looks at everybody's memory meanwhile."""
    told, at = 0, time.monotonic()
    while True:
        record = await Batches(bus).get(_OWNER, batch_id)
        for role, size in memory_by_role(roles).items():
            figures.rss[role] = max(size, figures.rss.get(role, 0))
        if record is None or record.status == states.FAILED:
            raise BenchError(f"the batch failed: {record}")
        done = states.done(record)
        if done < _EARLY * figures.lines:
            figures.early_rss = dict(figures.rss)
        if status == states.FINALIZING and done >= told + figures.lines // 10:
            now = time.monotonic()
            print(f"{done:,} lines done, {(done - told) / (now - at):,.0f}/s", file=sys.stderr)
            told, at = done, now
        if record.status >= status:
            return record
        await asyncio.sleep(_LOOK_S)


def _text(figures: Figures) -> str:
    rows = [
        f"{figures.lines:,} lines",
        f"validated in {figures.validation_s:.1f} s",
        f"run in {figures.run_s:.1f} s: {figures.lines / figures.run_s:,.0f} lines/s",
        f"files written in {figures.files_s:.1f} s",
        "CPU of the run, us a line: " + _each(figures.cpu_us),
        "CPU of the files, us a line: " + _each(figures.files_cpu_us),
        f"memory, MB, by {_EARLY:.0%} of the lines: " + _megabytes(figures.early_rss),
        "memory, MB, in all: " + _megabytes(figures.rss),
        "stored, bytes a line: " + _each(figures.stored),
    ]
    if figures.unary_rps:
        best = max(figures.unary_rps)
        rates = " and ".join(f"{rps:,.0f}" for rps in figures.unary_rps)
        rows.append(f"single requests by the same workers, before and after: {rates} a second")
        rows += ["CPU of single requests, us each: " + _each(cpu) for cpu in figures.unary_cpu_us]
        part = figures.lines / figures.run_s / best
        rows.append(f"lines a second are {part:.1%} of the better of these")
    rows += [f"MISSED: {goal}" for goal in missed(figures)]
    return "\n".join(rows)


def missed(figures: Figures) -> list[str]:
    """The goals that the figures miss."""
    rate = figures.lines / figures.run_s
    goals = [
        (figures.validation_s <= _VALIDATED_S, f"validation in {_VALIDATED_S:.0f} s"),
        *(
            (figures.rss.get(role, 0) <= _RSS, f"{_RSS / 1e6:.0f} MB for a {role}")
            for role in _SPENT
        ),
        (
            all(rate >= _PART * single for single in figures.unary_rps),
            f"{_PART:.0%} of single requests a second",
        ),
    ]
    return [goal for met, goal in goals if not met]


def _megabytes(sizes: Mapping[str, int]) -> str:
    return _each({role: size / 1e6 for role, size in sizes.items()})


def _each(figures: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {figure:.0f}" for name, figure in figures.items())


if __name__ == "__main__":
    main()
