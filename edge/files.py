"""Files for both front ends: taken in, listed, read, deleted.

What is not there and what is another owner's are the same: `not_found`. Everything raises
`InferenceError`.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator

from broker.bus import Bus
from broker.bus.files import Files, Page
from broker.errors import InferenceError
from broker.files import Purpose, store_of
from broker.keys import KeyRecord
from broker.translate.files import Listing, Wanted, check_filename, no_file
from broker.v1 import file_pb2
from broker.wallclock import now
from edge.seams import Holds
from edge.store import told


class FileService:
    """See the module."""

    def __init__(self, bus: Bus, running: Holds) -> None:
        self.files = Files(bus)
        self._running = running

    async def take(
        self,
        key: KeyRecord,
        chunks: AsyncIterator[bytes],
        described: Callable[[], tuple[str, Wanted]],
        *,
        purpose: Purpose = file_pb2.FILE_PURPOSE_UNSPECIFIED,
    ) -> file_pb2.StoredFile:
        """Store a file as its bytes come.

        `described` is asked for its name and for what it is to be when they have come; `purpose`
        is its purpose where that is known before.
        """
        with self.transfer(), told():
            piece = await self.files.objects.write(store_of(purpose), chunks)
            try:
                filename, wanted = described()
                check_filename(filename, wanted.purpose)
            except InferenceError:
                await self.files.objects.discard(piece.store, piece.name)
                raise
            record = file_pb2.StoredFile(
                owner=key.owner,
                tenant=key.tenant,
                purpose=wanted.purpose,
                filename=filename,
                created_at=now(),
            )
            if wanted.keeps_s:
                record.expires_at = record.created_at + wanted.keeps_s
            return await self.files.add(record, [piece])

    async def get(self, owner: str, name: str) -> file_pb2.StoredFile:
        """The record of a file."""
        with told():
            record = await self.files.get(owner, name)
        if record is None:
            raise no_file(name)
        return record

    async def list(self, owner: str, wanted: Listing) -> Page:
        """Part of the files."""
        with told():
            return await self.files.list(
                owner, wanted.purpose, wanted.after, wanted.limit, wanted.order
            )

    async def delete(self, owner: str, name: str) -> None:
        """Forget a file."""
        with told():
            if not await self.files.delete(owner, name):
                raise no_file(name)

    async def read(
        self, record: file_pb2.StoredFile, start: int, end: int
    ) -> AsyncGenerator[bytes, None]:
        """The bytes from `start` up to `end`. Close it when it is not read to its end."""
        with self.transfer(), told(record.id):
            async with contextlib.aclosing(self.files.read(record, start, end)) as chunks:
                async for chunk in chunks:
                    yield chunk

    @contextlib.contextmanager
    def transfer(self) -> Iterator[None]:
        """Inside, bytes are on their way, and a process that drains waits for them."""
        whole = object()
        self._running.hold(whole)
        try:
            yield
        finally:
            self._running.let_go(whole)
