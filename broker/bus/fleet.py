"""The fleet token: the secret workers show to edges, shared by whoever may use this NATS (R20)."""

from __future__ import annotations

import asyncio
import secrets

from nats.js.errors import KeyNotFoundError, KeyWrongLastSequenceError

from broker import subjects
from broker.bus.connection import Bus, BusError
from broker.config import Settings

_KEY = "fleet.token"


async def create_fleet_token(bus: Bus) -> None:
    """Make the token unless there is one; the broker process does this."""
    kv = await bus.kv(subjects.CFG)
    try:
        await kv.get(_KEY)
    except KeyNotFoundError:
        try:
            await kv.create(_KEY, secrets.token_urlsafe(32).encode())
        except KeyWrongLastSequenceError:
            return  # another broker process was faster


async def fleet_token(bus: Bus, settings: Settings) -> str:
    """The configured token, else the shared one; waits up to 15 s for the broker process."""
    if settings.fleet_token:
        return settings.fleet_token
    kv = await bus.kv(subjects.CFG)
    for _ in range(60):
        try:
            entry = await kv.get(_KEY)
        except KeyNotFoundError:
            await asyncio.sleep(0.25)
            continue
        return (entry.value or b"").decode()
    raise BusError("there is no fleet token yet; is a broker process running?")
