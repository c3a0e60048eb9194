"""`millrace capacity`: what providers allow, how much of it is used, and what they refused."""

from __future__ import annotations

import asyncio
import json

import msgspec
import typer
from rich.table import Table

from broker.bus import BusError
from broker.bus.capacity import read_standings
from broker.bus.survey import reach
from broker.cli.attach import with_nats
from broker.cli.options import console, fail
from broker.settings import Settings
from broker.standing import Standing

_COLUMNS = (
    *("model", "key", "calls", "running", "waiting"),
    *("calls/s", "tokens/s", "why", "429s/min", "429s", "rests"),
)


def show(settings: Settings, provider: str | None, *, as_json: bool) -> None:
    """Print one place a line; JSON has the share of each worker, too."""
    try:
        known = asyncio.run(_read(with_nats(settings)))
    except BusError as exc:
        fail(str(exc))
    known = [one for one in known if provider in {None, one.provider}]
    if as_json:
        typer.echo(json.dumps(msgspec.to_builtins(known), indent=2))
        return
    if not known:
        typer.echo("no call was made lately, and no limit is known", err=True)
        return
    table = Table(*_COLUMNS, box=None, pad_edge=False)
    for one in sorted(known, key=lambda one: one.place):
        table.add_row(*_row(one))
    console().print(table)


async def _read(settings: Settings) -> list[Standing]:
    bus = await reach(settings.nats, name="cli", patience_s=3)
    try:
        return await read_standings(bus)
    finally:
        await bus.close()


def _row(one: Standing) -> tuple[str, ...]:
    return (
        f"{one.provider}/{one.model or '*'}",
        one.key,
        _number(one.calls, "any"),
        _number(one.running),
        _number(one.waiting),
        _number(one.rate, "any"),
        _number(one.tokens, "any"),
        one.why,
        _number(one.limited_lately),
        _number(one.limited),
        f"{one.rest_s:g} s" if one.rest_s else "",
    )


def _number(value: float | None, missing: str = "?") -> str:
    return missing if value is None else f"{value:g}"
