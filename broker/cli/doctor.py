"""`millrace doctor`: looks at all that has to be right, and says what to do when it is not."""

from __future__ import annotations

import asyncio
import os
import platform
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import httpx
import typer
from rich.table import Table
from rich.text import Text

from broker.bus import BusError
from broker.bus.clock import WORTH_TELLING_S
from broker.bus.survey import Survey, reach, survey
from broker.cli.attach import base_url, find_nats
from broker.cli.options import console
from broker.embedded import EmbeddedError, check_version, find_binary
from broker.providers import REGISTRY
from broker.settings import Address, Settings
from broker.standing import said

PACKAGES = ("nats-py", "grpcio", "protobuf", "fastapi", "uvicorn", "httpx", "msgspec")
OLDEST_PYTHON = (3, 11)

OK, OFF, WRONG = "ok", "off", "wrong"
_STYLES = {OK: "green", OFF: "dim", WRONG: "bold red"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at; `advice` says what to do when it is wrong."""

    what: str
    state: str
    detail: str
    advice: str = ""


def examine(settings: Settings) -> None:
    """Print what was found; the exit code is 1 when something is wrong."""
    findings = [
        *_versions(),
        _data_folder(settings),
        *_nats(settings),
        *_providers(settings),
        *_ports(settings),
    ]
    table = Table(box=None, pad_edge=False, show_header=False)
    for found in findings:
        table.add_row(found.what, Text(found.state, style=_STYLES[found.state]), Text(found.detail))
    console().print(table)
    wrong = [found for found in findings if found.state == WRONG]
    for found in wrong:
        typer.echo(f"{found.what}: {found.advice or found.detail}", err=True)
    if wrong:
        raise typer.Exit(1)


def _versions() -> Iterator[Finding]:
    new_enough = sys.version_info >= OLDEST_PYTHON
    yield Finding(
        "python",
        OK if new_enough else WRONG,
        platform.python_version(),
        "use Python 3.11 or newer",
    )
    yield Finding("millrace", OK, version("millrace"))
    found: list[str] = []
    missing: list[str] = []
    for name in PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    if missing:
        yield Finding("packages", WRONG, f"missing: {', '.join(missing)}", "run: make install")
    else:
        yield Finding("packages", OK, ", ".join(found))


def _data_folder(settings: Settings) -> Finding:
    folder = settings.data.absolute()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if existing.is_dir() and os.access(existing, os.W_OK | os.X_OK):
        return Finding("data folder", OK, str(folder))
    advice = "make it writable, or choose another with --data or MILLRACE_DATA"
    return Finding("data folder", WRONG, f"{folder} is not writable", advice)


def _nats(settings: Settings) -> Iterator[Finding]:
    if settings.nats.url is None:
        try:
            binary = find_binary()
            yield Finding("nats-server", OK, f"{check_version(binary)} ({binary})")
        except EmbeddedError as exc:
            yield Finding("nats-server", WRONG, str(exc))
    attached = find_nats(settings)
    if attached is None:
        yield Finding("NATS", OFF, "not running; millrace up starts its own")
        return
    try:
        found = asyncio.run(_survey(attached))
    except BusError as exc:
        yield Finding("NATS", WRONG, str(exc))
        return
    where = f"{found.server_version} at {attached.nats.url}, JetStream API {found.api_level}"
    yield Finding("NATS", OK, where)
    yield from _layout(found)
    yield _clock(found)
    yield from _workers(settings, found)
    yield from _capacity(found)


async def _survey(settings: Settings) -> Survey:
    bus = await reach(settings.nats, name="doctor", patience_s=2)
    try:
        return await survey(bus)
    finally:
        await bus.close()


def _clock(found: Survey) -> Finding:
    if abs(found.ahead_s) <= WORTH_TELLING_S:
        return Finding("clock", OK, "as NATS has it")
    advice = "set the clocks right (NTP): delayed work is due by the clock of NATS"
    return Finding("clock", WRONG, f"{found.ahead_s:+.1f} s off the one of NATS", advice)


def _layout(found: Survey) -> Iterator[Finding]:
    if found.missing:
        yield Finding(
            "streams",
            WRONG,
            f"missing: {', '.join(found.missing)}",
            f"{', '.join(found.missing)} missing; start the process that creates them: "
            "millrace broker",
        )
    else:
        yield Finding("streams", OK, "all there")
    busy = [
        f"{row.consumer} {row.waiting} waiting, {row.held} held"
        for row in found.backlogs
        if row.waiting or row.held
    ]
    count = f"{len(found.backlogs)}, {'; '.join(busy) or 'nothing waits'}"
    yield Finding("consumers", OK if found.backlogs else OFF, count)


def _workers(settings: Settings, found: Survey) -> Iterator[Finding]:
    slots: dict[str, list[int]] = {}
    for worker in found.workers:
        slots.setdefault(worker.provider, []).append(worker.slots)
    for name in sorted({*slots, *settings.providers}):
        if live := slots.get(name):
            yield Finding(f"workers {name}", OK, f"{len(live)} live, {sum(live)} slots")
        else:
            advice = f"start one: millrace worker {name}"
            yield Finding(f"workers {name}", WRONG, "none is live", advice)
    if not slots and not settings.providers:
        yield Finding("workers", WRONG, "none is live", "start one: millrace worker PROVIDER")


def _capacity(found: Survey) -> Iterator[Finding]:
    """The places that are limited; `millrace capacity` has all."""
    for one in sorted(found.standings, key=lambda one: one.place):
        if one.why or one.rest_s or one.limited_lately:
            place = " ".join(filter(None, (f"{one.provider}/{one.model or '*'}", one.key)))
            detail = f"{said(one)}; {len(one.shares)} workers"
            yield Finding(f"capacity {place}", OK, detail)


def _providers(settings: Settings) -> Iterator[Finding]:
    for name in dict.fromkeys((*REGISTRY, *settings.providers, *settings.providers_off)):
        if on := settings.providers.get(name):
            keys = f"{len(on.api_keys)} key{'s' * (len(on.api_keys) != 1)}"
            where = f" at {on.base_url}" if on.base_url else ""
            yield Finding(f"provider {name}", OK, f"{keys}, {on.slots} slots{where}")
        elif name != "sim":
            yield Finding(f"provider {name}", OFF, settings.providers_off[name])


def _ports(settings: Settings) -> Iterator[Finding]:
    try:
        answer = httpx.get(f"{base_url(settings)}/readyz", timeout=3, trust_env=False)
        ours = answer.headers.get("content-type", "").startswith("application/json")
        ours = ours and "ready" in answer.json()
    except httpx.ConnectError:
        answer, ours = None, False
    except (httpx.HTTPError, ValueError):
        answer, ours = httpx.Response(0), False
    yield _http(settings, answer if ours else None, taken=answer is not None)
    listening = _listens(settings.grpc)
    name, where = "gRPC", str(settings.grpc)
    if ours:
        state, detail = (OK, "served") if listening else (WRONG, "not served, though HTTP is")
        advice = "say where it listens with --grpc, or look at the log of the edge"
        yield Finding(name, state, f"{where} {detail}", advice)
    elif listening:
        advice = "stop what uses it, or choose another with --grpc or MILLRACE_GRPC"
        yield Finding(name, WRONG, f"{where} is taken by another program", advice)
    else:
        yield Finding(name, OFF, f"{where} is free")


def _http(settings: Settings, ours: httpx.Response | None, *, taken: bool) -> Finding:
    where = str(settings.http)
    if ours is not None:
        if ours.status_code == httpx.codes.OK:
            return Finding("HTTP", OK, f"{where} served and ready")
        reasons = "; ".join(map(str, ours.json().get("reasons", ()))) or "no reason given"
        return Finding("HTTP", WRONG, f"{where} served but not ready: {reasons}", reasons)
    if taken:
        advice = "stop what uses it, or choose another with --http or MILLRACE_HTTP"
        return Finding("HTTP", WRONG, f"{where} is taken by another program", advice)
    return Finding("HTTP", OFF, f"{where} is free")


def _listens(address: Address) -> bool:
    local = address.reachable
    try:
        with socket.create_connection((local.host, local.port), timeout=1):
            return True
    except OSError:
        return False
