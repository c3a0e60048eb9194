"""`millrace usage`: the bill, folded from all that was stored of what was used (R16)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from datetime import date

import typer
from rich.table import Table

from broker import subjects
from broker.bus import BusError
from broker.bus.survey import reach
from broker.bus.usage import usage_groups
from broker.catalog import catalog
from broker.catalog.bill import Bill
from broker.catalog.cost import usd
from broker.cli.attach import with_nats
from broker.cli.options import console, fail
from broker.ledger import BY, CLASSES, Ledger, Line
from broker.settings import Settings

_OUTPUT = ("output_tokens", "reasoning_tokens", "output_audio_tokens", "output_image_tokens")


def show(
    settings: Settings,
    by: str,
    since: str | None,
    until: str | None,
    tenant: str | None,
    *,
    as_json: bool,
) -> None:
    """Print a line for each that was charged for something, and the total."""
    names = [name.strip() for name in by.split(",")]
    for name in names:
        if name not in BY:
            fail(f"--by {name!r} is none of {', '.join(BY)}", 2)
    ledger = Ledger(
        price=Bill(catalog.load(settings.offers)).price,
        by=names,
        since=_day(since, "--since") or "",
        until=_day(until, "--until") or "~",
    )
    try:
        asyncio.run(_fold(with_nats(settings), ledger, tenant))
    except BusError as exc:
        fail(str(exc))
    charged = [(place, line) for place, line in sorted(ledger.lines.items()) if line.charges]
    total = ledger.total(line for _, line in charged)
    if as_json:
        lines = [{**dict(zip(names, place, strict=True)), **_told(line)} for place, line in charged]
        typer.echo(json.dumps({"lines": lines, "total": _told(total)}, indent=2))
        return
    _print(names, charged, total)


def _print(
    names: Sequence[str], charged: Sequence[tuple[tuple[str, ...], Line]], total: Line
) -> None:
    table = Table(*names, box=None, pad_edge=False)
    for title in ("requests", "input", "output", "dollars", "unpriced"):
        table.add_column(title, justify="right")
    for place, line in charged:
        table.add_row(*place, *_shown(line))
    if len(charged) > 1:
        table.add_row("total", *[""] * (len(names) - 1), *_shown(total))
    console().print(table)


async def _fold(settings: Settings, ledger: Ledger, tenant: str | None) -> None:
    bus = await reach(settings.nats, name="cli", patience_s=3)
    try:
        async for group in usage_groups(bus, subjects.usage(tenant) if tenant else "usage.*"):
            ledger.apply(group)
    finally:
        await bus.close()


def _day(given: str | None, flag: str) -> str | None:
    if given is None:
        return None
    try:
        return date.fromisoformat(given).isoformat()
    except ValueError:
        fail(f"{flag} {given!r} is no day; write it as 2026-11-30", 2)


def _tokens(line: Line) -> tuple[int, int]:
    output = sum(line.tokens[name] for name in _OUTPUT)
    return sum(line.tokens.values()) - output, output


def _shown(line: Line) -> tuple[str, ...]:
    read, written = _tokens(line)
    return (
        f"{line.charges:,}",
        f"{read:,}",
        f"{written:,}",
        usd(line.cost_nano),
        f"{line.unpriced:,}" if line.unpriced else "",
    )


def _told(line: Line) -> dict[str, object]:
    """As JSON has it: dollars are text, so that no digit is lost."""
    tokens = {name: line.tokens[name] for name in CLASSES if line.tokens[name]}
    return {
        "requests": line.charges,
        "unpriced_requests": line.unpriced,
        "tokens": tokens,
        "cost_usd": usd(line.cost_nano),
    }
