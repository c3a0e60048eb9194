"""Uploads: parts that come one by one, and then are a file without being copied.

An upload that is completed says what its file is to be before the file is there, and that it is
there after that: whoever completes it again goes on where the one before stopped. Parts belong to
uploads by their keys, and NATS forgets both.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from broker import subjects
from broker.bus.connection import Bus
from broker.bus.files import Files, create, names, read, write
from broker.files import UPLOAD_S, is_part_id, is_upload_id, store_of
from broker.v1 import file_pb2
from broker.wallclock import now

# How long a record outlives its upload, so that those who come late are told why.
_SPARE_S = 3600
# Records that are read at a time.
_AT_ONCE = 64


@dataclass(slots=True)
class KeptUpload:
    """An upload as it was read."""

    record: file_pb2.StoredUpload
    revision: int


class Uploads:
    """See the module. An unknown id and another owner's are the same: None."""

    def __init__(self, bus: Bus, files: Files) -> None:
        self._bus = bus
        self._files = files

    async def create(self, record: file_pb2.StoredUpload) -> file_pb2.StoredUpload:
        """A new upload: `record` says whose it is and what file it is to be."""
        stored = file_pb2.StoredUpload()
        stored.CopyFrom(record)
        stored.id = "upload_" + os.urandom(16).hex()
        stored.created_at = now()
        stored.expires_at = stored.created_at + UPLOAD_S
        stored.status = file_pb2.UPLOAD_STATUS_PENDING
        await create(self._bus, _key(stored), stored.SerializeToString(), _forgotten(stored))
        return stored

    async def get(self, owner: str, name: str) -> KeptUpload | None:
        """The upload of this id, also for a while after it expired."""
        if not is_upload_id(name):
            return None
        found = await read(self._bus, subjects.upload_key(owner, name))
        if found is None:
            return None
        record = file_pb2.StoredUpload.FromString(found.value)
        return KeptUpload(record, found.revision) if record.owner == owner else None

    async def update(self, kept: KeptUpload) -> None:
        """Write an upload that was read. Raises `ConflictError` when it was changed since."""
        data = kept.record.SerializeToString()
        key, end = _key(kept.record), _forgotten(kept.record)
        kept.revision = await write(self._bus, key, data, end, kept.revision)

    async def add(
        self, upload: file_pb2.StoredUpload, chunks: AsyncIterator[bytes]
    ) -> file_pb2.StoredPart:
        """Store one more part."""
        piece = await self._files.objects.write(store_of(upload.file.purpose), chunks)
        part = file_pb2.StoredPart(
            id="part_" + os.urandom(16).hex(),
            upload_id=upload.id,
            owner=upload.owner,
            created_at=now(),
            piece=piece,
        )
        key = subjects.part_key(upload.owner, upload.id, part.id)
        await create(self._bus, key, part.SerializeToString(), _forgotten(upload))
        return part

    async def parts(
        self, upload: file_pb2.StoredUpload, names: Sequence[str]
    ) -> list[file_pb2.StoredPart | None]:
        """The parts of these ids, in this order; None for those that are none of the upload."""
        found: list[file_pb2.StoredPart | None] = []
        for start in range(0, len(names), _AT_ONCE):
            some = names[start : start + _AT_ONCE]
            found += await asyncio.gather(*(self._part(upload, name) for name in some))
        return found

    async def md5(self, parts: Sequence[file_pb2.StoredPart]) -> str:
        """The digest of all bytes, in hex digits; they are read for it."""
        digest = hashlib.md5(usedforsecurity=False)
        for part in parts:
            async for chunk in self._files.objects.read(part.piece):
                digest.update(chunk)
        return digest.hexdigest()

    async def discard(self, upload: file_pb2.StoredUpload) -> None:
        """Delete the bytes of an upload that was cancelled; what comes later is swept."""
        everything = subjects.part_key(upload.owner, upload.id, "*")
        for part in await self.parts(upload, await names(self._bus, everything)):
            if part is not None:
                await self._files.objects.discard(part.piece.store, part.piece.name)

    async def _part(self, upload: file_pb2.StoredUpload, name: str) -> file_pb2.StoredPart | None:
        if not is_part_id(name):
            return None
        found = await read(self._bus, subjects.part_key(upload.owner, upload.id, name))
        return None if found is None else file_pb2.StoredPart.FromString(found.value)


def _key(upload: file_pb2.StoredUpload) -> str:
    return subjects.upload_key(upload.owner, upload.id)


def _forgotten(upload: file_pb2.StoredUpload) -> int:
    return upload.expires_at + _SPARE_S
