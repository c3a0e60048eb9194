"""Requests that are to run once: a record per name that callers gave, changed by compare-and-set.

Everything raises `BusError` while NATS cannot be used.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

from nats.js.errors import APIError, KeyDeletedError, KeyNotFoundError

from broker import subjects
from broker.bus.connection import Bus
from broker.bus.queue import WRONG_LAST
from broker.bus.steady import mapped
from broker.v1 import stored_pb2

# How long an answer is kept.
KEPT_S = 86_400.0
# What is left of a forgotten record goes by itself after this long.
_GONE_S = 1.0


@dataclass(frozen=True, slots=True)
class Found:
    """A record as it was read; None where only its place is left."""

    record: stored_pb2.Once | None
    revision: int


class OnceStore:
    """See the module. A name is the caller's own, and of one owner."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def get(self, owner: str, name: str) -> Found:
        """The record of a name; revision 0 where there never was one."""
        with mapped("look an idempotency key up"):
            bucket = await self._bus.kv(subjects.IDEMPOTENCY)
            try:
                entry = await bucket.get(_key(owner, name))
            except KeyDeletedError as exc:
                return Found(None, (exc.entry.revision or 0) if exc.entry else 0)
            except KeyNotFoundError:
                return Found(None, 0)
        # A forgotten record, and the server's mark of one whose time was over, are empty.
        record = stored_pb2.Once.FromString(entry.value) if entry.value else None
        return Found(record, entry.revision or 0)

    async def put(
        self, owner: str, name: str, record: stored_pb2.Once, revision: int, ttl_s: float
    ) -> int:
        """Write over what was read; returns the new revision, 0 when it was changed since."""
        return await self._write(owner, name, record.SerializeToString(), revision, ttl_s)

    async def forget(self, owner: str, name: str, revision: int) -> None:
        """Forget a record that was read, unless it was changed since."""
        await self._write(owner, name, b"", revision, _GONE_S)

    async def _write(self, owner: str, name: str, data: bytes, revision: int, ttl_s: float) -> int:
        headers = {
            "Nats-Expected-Last-Subject-Sequence": str(revision),
            "Nats-TTL": str(math.ceil(ttl_s)),
        }
        subject = f"$KV.{subjects.IDEMPOTENCY}.{_key(owner, name)}"
        with mapped("look an idempotency key up"):
            await self._bus.kv(subjects.IDEMPOTENCY)
            try:
                ack = await self._bus.js.publish(subject, data, headers=headers, timeout=2)
            except APIError as exc:
                if exc.err_code not in WRONG_LAST:
                    raise
                return 0
        return ack.seq


def _key(owner: str, name: str) -> str:
    return subjects.once_key(owner, hashlib.sha256(f"{owner}\0{name}".encode()).hexdigest())
