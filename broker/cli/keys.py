"""`millrace key create|list|revoke`: API keys, through NATS."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TypeVar

import typer
from rich.table import Table

from broker.bus import BusError
from broker.bus.keyring import Keyring, UnknownKeyError
from broker.bus.survey import reach
from broker.cli.attach import with_nats
from broker.cli.options import console, fail
from broker.keys import KeyRecord
from broker.settings import Settings

_T = TypeVar("_T")


def create(settings: Settings, name: str, tenant: str, weight: int) -> None:
    """Make a key: the secret goes to standard output, all else to standard error."""
    secret, record = with_keyring(
        settings, lambda keyring: keyring.create(name, tenant, weight=weight)
    )
    typer.echo(f"{record.id} for {name}; the key is shown this once:", err=True)
    typer.echo(secret)


def show(settings: Settings) -> None:
    """Print all keys, oldest first."""
    records = with_keyring(settings, lambda keyring: keyring.list())
    table = Table("id", "name", "tenant", "weight", "created", "state", box=None, pad_edge=False)
    for record in records:
        table.add_row(
            record.id,
            record.name,
            record.tenant,
            str(record.weight),
            _date(record.created_at),
            _state(record),
        )
    console().print(table)


def revoke(settings: Settings, key_id: str) -> None:
    """Revoke the key with this id."""
    record = with_keyring(settings, lambda keyring: keyring.revoke(key_id))
    typer.echo(f"{record.id} ({record.name}) is revoked")


def with_keyring(settings: Settings, use: Callable[[Keyring], Awaitable[_T]]) -> _T:
    """What `use` gives, with the API keys of what runs; ends the command where that fails."""

    async def run() -> _T:
        bus = await reach(with_nats(settings).nats, name="cli", patience_s=3)
        try:
            return await use(Keyring(bus))
        finally:
            await bus.close()

    try:
        return asyncio.run(run())
    except (BusError, UnknownKeyError) as exc:
        fail(str(exc))


def _state(record: KeyRecord) -> str:
    if not record.revoked:
        return "active"
    return f"revoked {_date(record.revoked_at)}" if record.revoked_at else "revoked"


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
