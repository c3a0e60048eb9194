"""The fleet token: the secret workers show to edges, shared by whoever may use this NATS (R20)."""

from __future__ import annotations

import asyncio
import contextlib
import secrets

from nats.errors import Error as NatsError
from nats.js.errors import KeyNotFoundError, KeyWrongLastSequenceError

from broker import subjects
from broker.bus.connection import Bus, BusError
from broker.config import Settings

_KEY = "fleet.token"


async def create_fleet_token(bus: Bus, remembered: str = "") -> str:
    """The shared token; made unless there is one. The broker process does this.

    `remembered` is the one to make: on a server that lost its disk, processes that run know it.
    Raises `BusError`.
    """
    kv = await bus.kv(subjects.CFG)
    try:
        for _ in range(3):
            try:
                return ((await kv.get(_KEY)).value or b"").decode()
            except KeyNotFoundError:
                token = remembered or secrets.token_urlsafe(32)
            with contextlib.suppress(KeyWrongLastSequenceError):  # another one was faster
                await kv.create(_KEY, token.encode())
                return token
    except (NatsError, TimeoutError) as exc:
        raise BusError(f"fleet token: {exc}") from exc
    raise BusError("the fleet token is made and deleted again and again")


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
