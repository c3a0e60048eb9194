"""Stored responses and conversations: records of a bucket, changed by compare-and-set.

A record is kept as long as its bucket keeps it. What is too large for a record is an object in
`blobs`; then `request` and `answer` (or `messages`) are read and written only when they are asked
for. Everything raises `BusError` while NATS cannot be used.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from nats.js.errors import KeyNotFoundError, KeyWrongLastSequenceError, ObjectNotFoundError
from nats.js.object_store import ObjectStore

from broker import subjects
from broker.bus.connection import Bus, BusError
from broker.bus.layout import MAX_INLINE_BODY
from broker.bus.steady import mapped, subjects_of
from broker.v1 import stored_pb2

_log = logging.getLogger(__name__)

Record = TypeVar("Record", stored_pb2.StoredResponse, stored_pb2.StoredConversation)

_STREAM = f"OBJ_{subjects.BLOBS}"
_META = f"$O.{subjects.BLOBS}.M."
# What the names of batches' parts begin with; the batch's token follows.
RESULT_OF, COPIES_OF = "res/", "copies/"
OF_BATCHES = (RESULT_OF, COPIES_OF)
# What goes into an object when a record is too large.
_LARGE = {
    stored_pb2.StoredResponse: ("request", "answer"),
    stored_pb2.StoredConversation: ("messages",),
}
# Tries of `change` against others that change the same record.
_TRIES = 50


class ConflictError(Exception):
    """Somebody else changed the record."""


@dataclass(slots=True)
class Kept(Generic[Record]):
    """A record as it was read. `whole`: its large parts are here too."""

    record: Record
    revision: int
    whole: bool


class Blobs:
    """Large parts, by names of their own."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._store: ObjectStore | None = None

    async def put(self, prefix: str, data: bytes) -> stored_pb2.StoredObject:
        """Store `data` under a fresh name that begins with `prefix`."""
        name = f"{prefix}/{uuid.uuid4().hex}"
        with mapped("store a large part"):
            await (await self._open()).put(name, data)
        return stored_pb2.StoredObject(name=name, size=len(data))

    async def put_as(self, name: str, data: bytes) -> None:
        """Store `data` under this name, in the place of what was there."""
        with mapped("store a large part"):
            await (await self._open()).put(name, data)

    async def get(self, name: str) -> bytes | None:
        """What is stored under a name; None when it is gone."""
        with mapped("read a large part"):
            try:
                found = await (await self._open()).get(name)
            except ObjectNotFoundError:
                return None
        return bytes(found.data or b"")

    async def delete(self, name: str) -> None:
        """Forget a part; one that is gone already is no error."""
        with mapped("delete a large part"), contextlib.suppress(ObjectNotFoundError):
            await (await self._open()).delete(name)

    async def names(self) -> list[str]:
        """The names of all parts, and of some that are gone."""
        with mapped("list large parts"):
            found = await subjects_of(self._bus, _STREAM, f"{_META}*")
        return [urlsafe_b64decode(one.removeprefix(_META)).decode() for one in found]

    async def remove(self, name: str) -> None:
        """`delete`, and leave nothing that says that it was there."""
        await self.delete(name)
        with mapped("delete a large part"):
            meta = _META + urlsafe_b64encode(name.encode()).decode()
            await self._bus.js.purge_stream(_STREAM, subject=meta)

    async def discard(self, name: str) -> None:
        """`delete` what nobody can find any more: left to its retention when that fails."""
        try:
            await self.delete(name)
        except BusError as exc:
            _log.warning("%s", exc)

    async def _open(self) -> ObjectStore:
        if self._store is None:
            self._store = await self._bus.js.object_store(subjects.BLOBS)
        return self._store


class Store(Generic[Record]):
    """All records of one kind. An unknown id and another owner's are the same: None."""

    def __init__(self, bus: Bus, kind: type[Record], blobs: Blobs) -> None:
        self._bus = bus
        self._kind: type[Record] = kind
        self._blobs = blobs

    async def get(self, owner: str, name: str, *, whole: bool = True) -> Kept[Record] | None:
        """The record of this id, without its large parts unless it is to be `whole`."""
        with mapped("read what is stored"):
            bucket = await self._bus.kv(subjects.RESPONSES)
            try:
                entry = await bucket.get(subjects.stored_key(owner, name))
            except KeyNotFoundError:
                return None
        record = self._kind.FromString(entry.value or b"")
        # Two owners may share a token, and an id of the other kind a bucket.
        if record.owner != owner or record.id != name:
            return None
        kept: Kept[Record] = Kept(record, entry.revision or 0, not record.HasField("object"))
        if whole and not kept.whole:
            data = await self._blobs.get(record.object.name)
            if data is None:
                # It was replaced, or its response deleted, between the two reads.
                return await self.get(owner, name) if await self._moved(kept) else None
            record.MergeFromString(data)
            kept.whole = True
        return kept

    async def create(self, record: Record) -> int:
        """Write a new record; returns its revision. Raises `ConflictError` when there is one."""
        return await self._write(record, 0, whole=True)

    async def update(self, kept: Kept[Record]) -> None:
        """Write a record that was read. Raises `ConflictError` when it was changed since."""
        kept.revision = await self._write(kept.record, kept.revision, whole=kept.whole)

    async def change(
        self,
        owner: str,
        name: str,
        edit: Callable[[Record], bool],
        *,
        whole: bool = False,
    ) -> Record | None:
        """Read, edit and write until nobody interferes; returns the record as it is then.

        `edit` returns False to leave it as it is. None when there is none.
        """
        for _ in range(_TRIES):
            kept = await self.get(owner, name, whole=whole)
            if kept is None or not edit(kept.record):
                return kept.record if kept is not None else None
            try:
                await self.update(kept)
            except ConflictError:
                await asyncio.sleep(0.01)
                continue
            return kept.record
        raise BusError(f"{name} is changed by others all the time")

    async def delete(self, owner: str, name: str) -> bool:
        """Forget a record and its large parts; False when there is none."""
        kept = await self.get(owner, name, whole=False)
        if kept is None:
            return False
        with mapped("delete what is stored"):
            bucket = await self._bus.kv(subjects.RESPONSES)
            await bucket.delete(subjects.stored_key(owner, name))
        if kept.record.HasField("object"):
            await self._blobs.discard(kept.record.object.name)
        return True

    async def _moved(self, kept: Kept[Record]) -> bool:
        now = await self.get(kept.record.owner, kept.record.id, whole=False)
        return now is not None and now.revision != kept.revision

    async def _write(self, record: Record, revision: int, *, whole: bool) -> int:
        """Put the record where it is found: large parts first, and the old ones go last."""
        if not self._bus.connected:
            # The client would send it whenever it is connected again, after its writer gave up.
            raise BusError("cannot store it: NATS cannot be reached")
        before = record.object.name
        head, fresh = record, ""
        if whole:
            head, fresh = await self._head(record)
        key = subjects.stored_key(record.owner, record.id)
        try:
            with mapped("store it"):
                bucket = await self._bus.kv(subjects.RESPONSES)
                data = head.SerializeToString()
                try:
                    if revision:
                        written = await bucket.update(key, data, last=revision)
                    else:
                        written = await bucket.create(key, data)
                except KeyWrongLastSequenceError as exc:
                    raise ConflictError(record.id) from exc
        except (BusError, ConflictError):
            if fresh:
                await self._blobs.discard(fresh)
            raise
        if whole:
            record.ClearField("object")
            if fresh:
                record.object.CopyFrom(head.object)
            if before:
                await self._blobs.discard(before)
        return written

    async def _head(self, record: Record) -> tuple[Record, str]:
        """What goes into the bucket, and the object that the rest became."""
        head = self._kind()
        head.CopyFrom(record)
        head.ClearField("object")
        if head.ByteSize() <= MAX_INLINE_BODY:
            return head, ""
        large = self._kind()
        large.CopyFrom(head)
        apart = _LARGE[self._kind]
        for field in self._kind.DESCRIPTOR.fields:
            (head if field.name in apart else large).ClearField(field.name)  # type: ignore[arg-type]
        prefix = subjects.stored_key(record.owner, record.id)
        head.object.CopyFrom(await self._blobs.put(prefix, large.SerializeToString()))
        return head, head.object.name


class Responses:
    """Both kinds of records, and where their large parts are."""

    def __init__(self, bus: Bus) -> None:
        self.blobs = Blobs(bus)
        self.responses = Store(bus, stored_pb2.StoredResponse, self.blobs)
        self.conversations = Store(bus, stored_pb2.StoredConversation, self.blobs)
