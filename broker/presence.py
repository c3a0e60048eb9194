"""What a live process says of itself in its lease: workers and edges; pure."""

from __future__ import annotations

import msgspec


class WorkerLease(msgspec.Struct, frozen=True, omit_defaults=True):
    """One worker process. `slots` is how many calls it makes at a time."""

    worker: str
    provider: str
    pool: str
    slots: int
    models: tuple[str, ...] = ()
    version: str = ""


class EdgeLease(msgspec.Struct, frozen=True, omit_defaults=True):
    """One edge process, and where workers reach it."""

    edge: str
    address: str
    version: str = ""


class PoolRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """A pool whose consumers exist."""

    provider: str
    pool: str


encode = msgspec.json.encode
decode_worker = msgspec.json.Decoder(WorkerLease).decode
decode_pool = msgspec.json.Decoder(PoolRecord).decode
