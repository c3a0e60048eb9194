"""What a live process says of itself in its lease: workers and edges; pure."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from broker.limits import Configured
from broker.routing.residency import Claim
from broker.routing.spread import Spread


class Pace(msgspec.Struct, frozen=True, array_like=True):
    """How fast a model answered lately; 0 = not known.

    Milliseconds to the first content and between two tokens, and tokens per second.
    """

    first_ms: float
    token_ms: float
    per_second: float


class WorkerLease(msgspec.Struct, frozen=True, omit_defaults=True):
    """One worker process.

    `slots` is how many calls it makes at a time, `busy` how many it makes now; `paces` are by
    model.
    """

    worker: str
    provider: str
    pool: str
    slots: int
    models: tuple[str, ...] = ()
    version: str = ""
    busy: int = 0
    paces: Mapping[str, Pace] = {}
    # By model, of the last five minutes.
    spreads: Mapping[str, Spread] = {}
    # Where the address that it calls processes requests, by the provider's own documents.
    claims: frozenset[Claim] = frozenset()
    # Fingerprints of the operator's keys, and what the settings say that each of them allows.
    keys: tuple[str, ...] = ()
    limits: Configured | None = None
    # Whether the provider has a batch API of its own.
    batches: bool = False

    @property
    def place(self) -> tuple[object, ...]:
        """What routes depend on: it stays while the rest of the lease changes."""
        return self.provider, self.pool, self.slots, self.models, self.claims, self.keys


class EdgeLease(msgspec.Struct, frozen=True, omit_defaults=True):
    """One edge process, and where workers and other edges reach it."""

    edge: str
    address: str
    version: str = ""


class PoolRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """A pool whose consumers exist, and what its workers said of it when they ran last."""

    provider: str
    pool: str
    models: frozenset[str] = frozenset()
    claims: frozenset[Claim] = frozenset()


encode = msgspec.json.encode
decode_worker = msgspec.json.Decoder(WorkerLease).decode
decode_edge = msgspec.json.Decoder(EdgeLease).decode
decode_pool = msgspec.json.Decoder(PoolRecord).decode
