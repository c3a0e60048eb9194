"""What is on the bus right now, for people to look at: server, streams, backlogs, workers."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import msgspec
from nats.errors import Error as NatsError

from broker import subjects
from broker.bus.capacity import read_standings
from broker.bus.clock import Clock
from broker.bus.connection import Bus, BusError, connect
from broker.bus.layout import STREAMS
from broker.bus.mirror import Mirror
from broker.presence import WorkerLease, decode_worker
from broker.settings import NatsSettings
from broker.standing import Standing


@dataclass(frozen=True, slots=True)
class Backlog:
    """A consumer: what waits for a worker, and what workers hold."""

    consumer: str
    waiting: int
    held: int


@dataclass(frozen=True, slots=True)
class Survey:
    """`api_level` is JetStream's; `missing` names streams the broker process should have made."""

    server_version: str
    api_level: int
    missing: tuple[str, ...]
    backlogs: tuple[Backlog, ...]
    workers: tuple[WorkerLease, ...]
    standings: tuple[Standing, ...]
    # How far the clock of whoever looks is ahead of the server's, in seconds.
    ahead_s: float = 0.0


async def reach(nats: NatsSettings, *, name: str, patience_s: float) -> Bus:
    """A connection for somebody who waits: raises `BusError` after `patience_s` at the latest.

    The client itself tries for ever, also with credentials that are refused.
    """
    try:
        async with asyncio.timeout(patience_s):
            return await connect(nats, name=name, patience_s=patience_s)
    except TimeoutError as exc:
        raise BusError(
            f"cannot reach NATS at {nats.url}; check that it runs, that MILLRACE_NATS is its URL "
            "and that the credentials are right"
        ) from exc


async def survey(bus: Bus) -> Survey:
    """Look at everything; raises `BusError`, also when the server is too old."""
    try:
        level = await bus.check_server()
        present = {info.config.name for info in await bus.js.streams_info()}
        missing = tuple(name for name in STREAMS if name not in present)
        backlogs: list[Backlog] = []
        for stream in subjects.LANES.values():
            if stream in missing:
                continue
            backlogs += [
                Backlog(info.name, info.num_pending or 0, info.num_ack_pending or 0)
                for info in await bus.js.consumers_info(stream)
            ]
        known = f"KV_{subjects.WORKERS}" in present
        return Survey(
            server_version=_version(bus),
            api_level=level,
            missing=missing,
            backlogs=tuple(backlogs),
            workers=tuple(await live_workers(bus)) if known else (),
            standings=tuple(await read_standings(bus))
            if f"KV_{subjects.CAPACITY}" in present
            else (),
            ahead_s=await Clock(bus).ahead_s(),
        )
    except (NatsError, OSError) as exc:
        raise BusError(f"NATS does not answer: {exc or type(exc).__name__}") from exc


def _version(bus: Bus) -> str:
    known = bus.nc.connected_server_version
    return f"{known.major}.{known.minor}.{known.patch}"


async def live_workers(bus: Bus) -> list[WorkerLease]:
    """The workers whose lease is alive."""
    mirror = Mirror(bus, subjects.WORKERS)
    try:
        await mirror.start()
        return workers_in(mirror)
    finally:
        await mirror.close()


def workers_in(mirror: Mirror) -> list[WorkerLease]:
    """The workers in a mirror of their bucket, which edges share."""
    found: list[WorkerLease] = []
    for key, value in mirror.entries.items():
        if key.startswith("w."):
            try:
                found.append(decode_worker(value))
            except msgspec.DecodeError:
                # A worker of another version: it is there, but what it says is not for us.
                continue
    return found
