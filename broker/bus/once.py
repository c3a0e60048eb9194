"""Requests that are to run once: a record per name that callers gave, changed by compare-and-set.

Everything raises `BusError` while NATS cannot be used.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

from nats.errors import Error as NatsError
from nats.js.errors import Error as JetStreamError
from nats.js.errors import KeyDeletedError, KeyNotFoundError, KeyWrongLastSequenceError

from broker import subjects
from broker.bus.connection import Bus, BusError
from broker.v1 import stored_pb2

# How long an answer is kept.
KEPT_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Found:
    """A record as it was read."""

    record: stored_pb2.Once
    revision: int


class OnceStore:
    """See the module. A name is the caller's own, and of one tenant."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def create(self, tenant: str, name: str, record: stored_pb2.Once, ttl_s: float) -> int:
        """Write a new record; returns its revision, 0 when there is one already."""
        with _mapped():
            bucket = await self._bus.kv(subjects.IDEMPOTENCY)
            try:
                return await bucket.create(
                    _key(tenant, name), record.SerializeToString(), msg_ttl=math.ceil(ttl_s)
                )
            except KeyWrongLastSequenceError:
                return 0

    async def get(self, tenant: str, name: str) -> Found | None:
        """The record of a name."""
        with _mapped():
            bucket = await self._bus.kv(subjects.IDEMPOTENCY)
            try:
                entry = await bucket.get(_key(tenant, name))
            except (KeyNotFoundError, KeyDeletedError):
                return None
        return Found(stored_pb2.Once.FromString(entry.value or b""), entry.revision or 0)

    async def replace(
        self, tenant: str, name: str, record: stored_pb2.Once, revision: int, ttl_s: float
    ) -> int:
        """Write a record that was read; returns its revision, 0 when it was changed since."""
        subject = f"$KV.{subjects.IDEMPOTENCY}.{_key(tenant, name)}"
        headers = {
            "Nats-Expected-Last-Subject-Sequence": str(revision),
            "Nats-TTL": str(math.ceil(ttl_s)),
        }
        with _mapped():
            try:
                ack = await self._bus.js.publish(
                    subject, record.SerializeToString(), headers=headers, timeout=2
                )
            except JetStreamError as exc:
                if "wrong last sequence" not in str(exc):
                    raise
                return 0
        return ack.seq

    async def delete(self, tenant: str, name: str, revision: int) -> None:
        """Forget a record that was read, unless it was changed since."""
        with _mapped(), contextlib.suppress(KeyWrongLastSequenceError):
            bucket = await self._bus.kv(subjects.IDEMPOTENCY)
            await bucket.delete(_key(tenant, name), last=revision)


def _key(tenant: str, name: str) -> str:
    return subjects.once_key(tenant, hashlib.sha256(f"{tenant}\0{name}".encode()).hexdigest())


@contextlib.contextmanager
def _mapped() -> Iterator[None]:
    try:
        yield
    except (NatsError, JetStreamError, TimeoutError) as exc:
        raise BusError(f"cannot look an idempotency key up: {exc}") from exc
