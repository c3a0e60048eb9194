"""Files: a record each in the bucket `files`, their bytes in object stores.

The record is written last and deleted first, so that what is seen is whole. Bytes without a record
are left to the sweep: those of a writer that died, of a file that expired, of a delete that broke
off. An unknown id, another owner's and one that has expired are the same: None. Everything raises
`BusError` while NATS cannot be used.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass

from nats.js.errors import APIError

from broker import subjects
from broker.bus.connection import Bus
from broker.bus.objects import Objects
from broker.bus.queue import WRONG_LAST
from broker.bus.responses import ConflictError
from broker.bus.steady import last_message, mapped, patiently, subjects_of
from broker.files import Purpose, file_id, is_file_id, keeps_s, store_of
from broker.v1 import file_pb2
from broker.wallclock import now, now_ms

# The order of a list.
ASC, DESC = "asc", "desc"
# Records that are read at a time.
_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class Page:
    """Part of a list, and whether more follow."""

    files: list[file_pb2.StoredFile]
    has_more: bool


class Files:
    """See the module."""

    def __init__(self, bus: Bus) -> None:
        self.objects = Objects(bus)
        self._bus = bus

    async def put(
        self, record: file_pb2.StoredFile, chunks: AsyncIterator[bytes]
    ) -> file_pb2.StoredFile:
        """Store a file; returns its record. Memory stays flat, whatever comes.

        `record` says owner, purpose and filename; id, times and all that follows from the bytes
        are filled in where they are not there. With an id of its own it is written once: raises
        `ConflictError` when there is such a file already.
        """
        piece = await self.objects.write(store_of(record.purpose), chunks)
        try:
            return await self.add(record, [piece])
        except ConflictError:
            await self.objects.discard(piece.store, piece.name)
            raise

    async def add(
        self, record: file_pb2.StoredFile, pieces: list[file_pb2.StoredPiece]
    ) -> file_pb2.StoredFile:
        """Make a file of bytes that are stored already; otherwise as `put`.

        Pieces stay where they are when it fails: who was not told may have succeeded.
        """
        stored = file_pb2.StoredFile()
        stored.CopyFrom(record)
        complete(stored, now_ms())
        del stored.pieces[:]
        stored.pieces.extend(piece for piece in pieces if piece.size)
        stored.bytes = sum(piece.size for piece in pieces)
        if len(pieces) == 1:
            stored.sha256 = pieces[0].sha256
        stored.status = file_pb2.FILE_STATUS_PROCESSED
        key = subjects.file_key(stored.owner, stored.id)
        await create(self._bus, key, stored.SerializeToString(), stored.expires_at)
        return stored

    async def get(self, owner: str, name: str) -> file_pb2.StoredFile | None:
        """The record of this id."""
        if not is_file_id(name):
            return None
        found = await read(self._bus, subjects.file_key(owner, name))
        if found is None:
            return None
        record = file_pb2.StoredFile.FromString(found.value)
        # Two owners may share a token; NATS forgets what expired within a second or two.
        if record.owner != owner or 0 < record.expires_at <= now():
            return None
        return record

    async def list(
        self,
        owner: str,
        purpose: Purpose = file_pb2.FILE_PURPOSE_UNSPECIFIED,
        after: str = "",
        limit: int = 10_000,
        order: str = DESC,
    ) -> Page:
        """Files by the time they were made, those behind `after` alone."""
        found = await names(self._bus, subjects.file_key(owner, "*"))
        if order == DESC:
            found = [name for name in reversed(found) if not after or name < after]
        else:
            found = [name for name in found if name > after]
        files: list[file_pb2.StoredFile] = []
        for start in range(0, len(found), _AT_ONCE):
            some = found[start : start + _AT_ONCE]
            records = await asyncio.gather(*(self.get(owner, name) for name in some))
            files += [
                record
                for record in records
                if record and (not purpose or purpose == record.purpose)
            ]
            if len(files) > limit:
                break
        return Page(files[:limit], len(files) > limit)

    async def delete(self, owner: str, name: str) -> bool:
        """Forget a file and its bytes; False when there is none."""
        record = await self.get(owner, name)
        if record is None:
            return False
        await forget(self._bus, subjects.file_key(owner, name))
        for piece in record.pieces:
            await self.objects.discard(piece.store, piece.name)
        return True

    async def read(
        self, record: file_pb2.StoredFile, start: int = 0, end: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        """The bytes from `start` up to `end`; raises `GoneError` when they are not there any more.

        Close it when it is not read to its end (`contextlib.aclosing`).
        """
        stop = record.bytes if end is None else min(end, record.bytes)
        base = 0
        for piece in record.pieces:
            low, high = max(start - base, 0), min(stop - base, piece.size)
            if low < high:
                async with contextlib.aclosing(self.objects.read(piece, low, high)) as chunks:
                    async for chunk in chunks:
                        yield chunk
            base += piece.size


def complete(record: file_pb2.StoredFile, now_ms: int) -> None:
    """Fill in what a record needs to be a file's: its id and its times."""
    if not record.id:
        record.id = file_id(now_ms, os.urandom(16))
    if not record.created_at:
        record.created_at = now_ms // 1000
    if not record.expires_at and (kept := keeps_s(record.purpose)):
        record.expires_at = record.created_at + kept


@dataclass(frozen=True, slots=True)
class Found:
    """What a key of the bucket has."""

    value: bytes
    revision: int


async def read(bus: Bus, key: str) -> Found | None:
    """What a key has; None when it has nothing."""
    with mapped("read what is stored"):
        found = await last_message(bus, f"KV_{subjects.FILES}", _subject(key))
    # What expired leaves a marker for a moment.
    if found is None or not found.data:
        return None
    return Found(found.data, found.seq or 0)


async def names(bus: Bus, pattern: str) -> list[str]:
    """The last tokens of the keys that fit a pattern, sorted."""
    with mapped("list what is stored"):
        found = await subjects_of(bus, f"KV_{subjects.FILES}", _subject(pattern))
    return [subject.rpartition(".")[2] for subject in found]


async def create(bus: Bus, key: str, value: bytes, expires_at: int) -> None:
    """Write what is not there yet; raises `ConflictError` when something else is."""
    try:
        await write(bus, key, value, expires_at, 0)
    except ConflictError:
        # It may have been this one, whose ack was lost.
        there = await read(bus, key)
        if there is None or there.value != value:
            raise


async def write(bus: Bus, key: str, value: bytes, expires_at: int, revision: int) -> int:
    """Write behind `revision`; returns the new one. NATS forgets it at `expires_at`, 0 is never.

    Raises `ConflictError` when it was changed since.
    """
    headers = {"Nats-Expected-Last-Subject-Sequence": str(revision)}
    if expires_at:
        headers["Nats-TTL"] = str(max(expires_at - now(), 0) + 1)
    with mapped("store it"):
        await bus.kv(subjects.FILES)  # waits for the broker process to make it
        try:
            ack = await patiently(
                bus, lambda: bus.js.publish(_subject(key), value, headers=headers)
            )
        except APIError as exc:
            if exc.err_code not in WRONG_LAST:
                raise
            raise ConflictError(key) from exc
    return ack.seq


async def forget(bus: Bus, key: str) -> None:
    """Leave nothing of a key."""
    with mapped("delete what is stored"):
        stream = f"KV_{subjects.FILES}"
        await patiently(bus, lambda: bus.js.purge_stream(stream, subject=_subject(key)))


def _subject(key: str) -> str:
    return f"$KV.{subjects.FILES}.{key}"
