"""Records on USAGE, committed in groups: attempt records of workers, charges of edges (R16)."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable

from broker import subjects
from broker.bus.queue import TOO_LARGE, PubAck, Publisher
from broker.tasks import Tasks
from broker.v1 import record_pb2

_log = logging.getLogger(__name__)

_FLUSH_S = 0.01
_MAX_GROUP = 200
_MAX_BYTES = 512 << 10
_RETRY_S = 0.5


class _Group:
    """Records of one tenant that will be one message."""

    __slots__ = ("callbacks", "records", "size")

    def __init__(self) -> None:
        self.records = record_pb2.RecordGroup()
        self.callbacks: list[Callable[[], None]] = []
        self.size = 0


class Recorder:
    """Collects records for up to 10 ms, then writes one message per tenant.

    `committed` is called after the stream stored the group, and not before: a worker acks there.
    A group is sent again with the same message id until the stream takes it.
    """

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self._groups: dict[str, _Group] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._sending = Tasks()
        self.pending = 0

    def attempt(self, record: record_pb2.AttemptRecord, committed: Callable[[], None]) -> None:
        """Write an attempt record, then call `committed`."""
        group = self._group(record.tenant, record.ByteSize())
        group.records.attempts.append(record)
        group.callbacks.append(committed)

    def charge(
        self, charge: record_pb2.Charge, committed: Callable[[], None] | None = None
    ) -> None:
        """Write a charge, then call `committed`."""
        group = self._group(charge.tenant, charge.ByteSize())
        group.records.charges.append(charge)
        group.callbacks.append(committed or _nothing)

    async def drain(self, timeout_s: float = 3.0) -> None:
        """Wait until everything is stored."""
        self._flush()
        await self._sending.settle(timeout_s)

    async def close(self, timeout_s: float = 3.0) -> None:
        """Wait until everything is stored, then give up what is not, and say so."""
        await self.drain(timeout_s)
        if self.pending:
            _log.error("%d usage records were not stored before the end", self.pending)
        await self._sending.close()

    def _group(self, tenant: str, size: int) -> _Group:
        """The group that a record of this size goes into: never more than one message takes."""
        self.pending += 1
        found = self._groups.get(tenant)
        if found is not None and (
            len(found.callbacks) >= _MAX_GROUP or found.size + size > _MAX_BYTES
        ):
            self._flush()
            found = None
        if found is None:
            found = self._groups[tenant] = _Group()
        found.size += size
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_FLUSH_S, self._flush)
        return found

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        groups, self._groups = self._groups, {}
        for tenant, group in groups.items():
            self._sending.spawn(self._send(tenant, group.records, group.callbacks), "records")

    async def _send(
        self, tenant: str, group: record_pb2.RecordGroup, callbacks: list[Callable[[], None]]
    ) -> None:
        payload = group.SerializeToString()
        message_id = uuid.uuid4().hex
        while True:
            ack: PubAck = await self._publisher.request(
                subjects.usage(tenant), payload, Nats_Msg_Id=message_id
            )
            if ack.error is None and not ack.unavailable:
                break
            if ack.error is not None and ack.error.err_code == TOO_LARGE and _strip(group):
                payload = group.SerializeToString()
                continue
            why = "no answer" if ack.error is None else ack.error.description
            _log.warning("usage records not stored (%s); trying again", why)
            await asyncio.sleep(_RETRY_S)
        self.pending -= len(callbacks)
        for committed in callbacks:
            committed()


def _strip(group: record_pb2.RecordGroup) -> bool:
    """Drop the caller's labels: what is charged counts more. False when there are none."""
    labelled = [charge for charge in group.charges if charge.tags or charge.signature]
    for charge in labelled:
        _log.error("the labels of charge %s are too large and are dropped", charge.request_id)
        charge.ClearField("tags")
        charge.ClearField("signature")
    return bool(labelled)


def _nothing() -> None:
    """Nobody waits for an interactive charge."""
