"""Uploads for the front end: made, filled part by part, completed, cancelled.

What is not there and what is another owner's are the same: `not_found`. Everything raises
`InferenceError`.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

from broker.bus import Bus
from broker.bus.responses import ConflictError
from broker.bus.uploads import KeptUpload, Uploads
from broker.errors import InferenceError
from broker.files import file_id, keeps_s
from broker.keys import KeyRecord
from broker.translate.refusals import invalid
from broker.translate.uploads import CompleteBody, no_upload, not_pending, parts_found
from broker.v1 import file_pb2
from broker.wallclock import now, now_ms
from edge.files import FileService
from edge.store import told

_PENDING = file_pb2.UPLOAD_STATUS_PENDING
_COMPLETING = file_pb2.UPLOAD_STATUS_COMPLETING
_COMPLETED = file_pb2.UPLOAD_STATUS_COMPLETED
_CANCELLED = file_pb2.UPLOAD_STATUS_CANCELLED
# Tries against others that change the same upload.
_TRIES = 10


class UploadService:
    """See the module."""

    def __init__(self, bus: Bus, files: FileService) -> None:
        self._files = files
        self._uploads = Uploads(bus, files.files)

    async def create(self, key: KeyRecord, asked: file_pb2.StoredUpload) -> file_pb2.StoredUpload:
        """A new upload."""
        asked.owner = asked.file.owner = key.owner
        asked.file.tenant = key.tenant
        with told():
            return await self._uploads.create(asked)

    async def pending(self, owner: str, name: str) -> file_pb2.StoredUpload:
        """An upload that takes parts."""
        record = (await self._get(owner, name)).record
        if record.status != _PENDING or record.expires_at <= now():
            raise not_pending(record, now())
        return record

    async def add(
        self, upload: file_pb2.StoredUpload, chunks: AsyncIterator[bytes]
    ) -> file_pb2.StoredPart:
        """One more part, as its bytes come."""
        with self._files.transfer(), told():
            return await self._uploads.add(upload, chunks)

    async def complete(self, owner: str, name: str, asked: CompleteBody) -> file_pb2.StoredUpload:
        """Make the file; made again, it is the same one."""
        for _ in range(_TRIES):
            kept = await self._get(owner, name)
            if kept.record.status == _COMPLETED:
                return kept.record
            try:
                if kept.record.status == _PENDING:
                    await self._settle(kept, asked)
                if kept.record.status != _COMPLETING:
                    raise not_pending(kept.record, now())
                with told():
                    file = kept.record.file
                    await self._files.files.add(file, list(file.pieces))
                    kept.record.status = _COMPLETED
                    await self._uploads.update(kept)
            except ConflictError:
                continue
            return kept.record
        raise _busy(name)

    async def cancel(self, owner: str, name: str) -> file_pb2.StoredUpload:
        """Take nothing any more, and forget what came."""
        for _ in range(_TRIES):
            kept = await self._get(owner, name)
            if kept.record.status == _CANCELLED:
                return kept.record
            if kept.record.status != _PENDING:
                raise not_pending(kept.record, now())
            kept.record.status = _CANCELLED
            with told():
                try:
                    await self._uploads.update(kept)
                except ConflictError:
                    continue
                await self._uploads.discard(kept.record)
            return kept.record
        raise _busy(name)

    async def _settle(self, kept: KeptUpload, asked: CompleteBody) -> None:
        """Write down what the file is to be, once its parts were found to be all there."""
        record = kept.record
        if record.expires_at <= now():
            raise not_pending(record, now())
        with self._files.transfer(), told():
            found = await self._uploads.parts(record, asked.part_ids)
            parts = parts_found(asked.part_ids, found, record.file.bytes)
            if asked.md5 is not None and await self._uploads.md5(parts) != asked.md5.lower():
                raise invalid("md5", "The md5 of the parts is another one.", "md5_mismatch")
            made_ms = now_ms()
            file = record.file
            file.id = file_id(made_ms, os.urandom(16))
            file.created_at = made_ms // 1000
            kept_s = record.file_expires_after or keeps_s(file.purpose)
            file.expires_at = file.created_at + kept_s if kept_s else 0
            file.status = file_pb2.FILE_STATUS_PROCESSED
            file.pieces.extend(part.piece for part in parts)
            record.status = _COMPLETING
            await self._uploads.update(kept)

    async def _get(self, owner: str, name: str) -> KeptUpload:
        with told():
            kept = await self._uploads.get(owner, name)
        if kept is None:
            raise no_upload(name)
        return kept


def _busy(name: str) -> InferenceError:
    message = f"{name} is changed by others all the time; try again"
    return InferenceError("broker_unavailable", message, retry_after=1)
