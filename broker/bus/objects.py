"""Bytes of any size in the object stores: written and read as they come, in flat memory.

Each chunk of an object has a subject of its own, so that any byte of it is one request away. The
first chunk of a read is fetched by its subject, the others follow over a pull consumer, which is
several times as fast as the client library's `get`. A name begins with the time, so that what a
dead writer left behind can be told from what is being written.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import uuid
from collections.abc import AsyncGenerator, AsyncIterator

from nats.errors import Error as NatsError
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy, RawStreamMsg

from broker.bus.connection import Bus, BusError
from broker.bus.ending import end
from broker.bus.steady import last_message, mapped, patiently, subjects_of
from broker.v1 import file_pb2
from broker.wallclock import now

# Above 512 KiB nothing gets faster, and a message has to stay below 1 MiB.
CHUNK = 512 * 1024
# Chunks that a reader has on their way to it.
_AHEAD = 4
_FETCH_S = 5.0
_ARRIVES_S = 5.0
# The server forgets the consumer of a reader that died after this long.
_FORGET_S = 30.0
# Beyond this an object is taken for left behind, so no writer may take longer.
WRITE_WITHIN_S = 2 * 3600.0

_log = logging.getLogger(__name__)


class GoneError(BusError):
    """The bytes, or some of them, are not there any more."""


class Objects:
    """See the module. Everything raises `BusError` while NATS cannot be used."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def write(self, store: str, data: AsyncIterator[bytes]) -> file_pb2.StoredPiece:
        """Store what comes, whatever size its bits have. What fails midway leaves nothing."""
        name = f"{now():08x}{uuid.uuid4().hex[:24]}"
        writer = _Writer(self._bus, store, name)
        try:
            async with asyncio.timeout(WRITE_WITHIN_S):
                async for some in data:
                    await writer.add(some)
                return await writer.finish()
        except BaseException as exc:
            await writer.stop()
            await self.discard(store, name)
            if isinstance(exc, TimeoutError):
                raise BusError(f"writing took longer than {WRITE_WITHIN_S:g} s") from exc
            raise

    async def read(
        self, piece: file_pb2.StoredPiece, start: int = 0, end: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        """The bytes from `start` up to `end`, in bits of at most a chunk.

        Raises `GoneError` when some are missing, and `BusError` before the last of them when all
        were read and are not those that were written.
        """
        stop = piece.size if end is None else min(end, piece.size)
        if start >= stop:
            return
        size = piece.chunk_size
        number, last = start // size, (stop - 1) // size
        digest = hashlib.sha256() if (start, stop) == (0, piece.size) else None
        async with contextlib.aclosing(self._chunks(piece, number, last)) as chunks:
            async for chunk in chunks:
                base = number * size
                if len(chunk) != min(size, piece.size - base):
                    raise BusError(f"chunk {number} of {piece.name} has the wrong size")
                if digest is not None:
                    digest.update(chunk)
                    if number == last and digest.digest() != piece.sha256:
                        raise BusError(f"{piece.name} is not what was written: its digest differs")
                low, high = max(start - base, 0), min(stop - base, size)
                yield chunk if high - low == len(chunk) else chunk[low:high]
                number += 1

    async def discard(self, store: str, name: str) -> None:
        """Delete an object: left to the sweep when that fails."""
        try:
            await self.delete(store, name)
        except BusError as exc:
            _log.warning("%s", exc)

    async def delete(self, store: str, name: str) -> None:
        """Delete an object; one that is gone already is no error."""
        with mapped(f"delete {name}"):
            await self._bus.js.purge_stream(f"OBJ_{store}", subject=f"$O.{store}.C.{name}.>")

    async def names(self, store: str) -> list[str]:
        """Every object that is there, whole or not."""
        with mapped(f"list {store}"):
            found = await subjects_of(self._bus, f"OBJ_{store}", f"$O.{store}.C.*.0")
        return [subject.split(".")[3] for subject in found]

    async def _chunks(
        self, piece: file_pb2.StoredPiece, number: int, last: int
    ) -> AsyncGenerator[bytes, None]:
        """Chunks `number` to `last`; goes on from where it broke off."""
        while number <= last:
            message = await self._first(piece, number)
            yield message.data or b""
            number += 1
            if number > last:
                return
            following = self._following(piece, (message.seq or 0) + 1, last - number + 1)
            try:
                async with contextlib.aclosing(following) as chunks:
                    async for found, data in chunks:
                        if found != number:
                            break
                        yield data
                        number += 1
            except (NatsError, TimeoutError, OSError) as exc:
                _log.debug("reading %s goes on after %r", piece.name, exc)

    async def _first(self, piece: file_pb2.StoredPiece, number: int) -> RawStreamMsg:
        subject = f"$O.{piece.store}.C.{piece.name}.{number}"
        with mapped(f"read {piece.name}"):
            found = await last_message(self._bus, f"OBJ_{piece.store}", subject)
        if found is None:
            raise GoneError(f"the bytes of {piece.name} are gone")
        return found

    async def _following(
        self, piece: file_pb2.StoredPiece, sequence: int, count: int
    ) -> AsyncGenerator[tuple[int, bytes], None]:
        """`count` chunks from a sequence of the stream on, with their numbers."""
        js, stream = self._bus.js, f"OBJ_{piece.store}"
        config = ConsumerConfig(
            ack_policy=AckPolicy.NONE,
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=sequence,
            filter_subject=f"$O.{piece.store}.C.{piece.name}.*",
            inactive_threshold=_FORGET_S,
            mem_storage=True,
            num_replicas=1,
        )
        name = (await js.add_consumer(stream, config)).name
        try:
            pull = await js.pull_subscribe_bind(name, stream)
            try:
                while count > 0:
                    for message in await pull.fetch(min(_AHEAD, count), timeout=_FETCH_S):
                        yield int(message.subject.rpartition(".")[2]), message.data
                        count -= 1
            finally:
                await pull.unsubscribe()
        finally:
            with contextlib.suppress(NatsError, TimeoutError, OSError):
                await js.delete_consumer(stream, name)


class _Writer:
    """Cuts what comes into chunks; the next one is filled while one is on its way."""

    def __init__(self, bus: Bus, store: str, name: str) -> None:
        self._bus = bus
        self._prefix = f"$O.{store}.C.{name}"
        self._piece = file_pb2.StoredPiece(store=store, name=name, chunk_size=CHUNK)
        self._digest = hashlib.sha256()
        self._buffer = bytearray()
        self._count = 0
        # One at a time, so that chunks are in order.
        self._sending: asyncio.Task[None] | None = None

    async def add(self, some: bytes) -> None:
        """More bytes."""
        view = memoryview(some)
        while view:
            room = CHUNK - len(self._buffer)
            self._buffer += view[:room]
            view = view[room:]
            if len(self._buffer) == CHUNK:
                await self._send()

    async def finish(self) -> file_pb2.StoredPiece:
        """Everything has come; returns when everything is stored."""
        if self._buffer:
            await self._send()
        await self._sent()
        self._piece.sha256 = self._digest.digest()
        return self._piece

    async def stop(self) -> None:
        """Nothing more comes. What is on its way is let arrive, or it would after the others go."""
        if self._sending is not None:
            await asyncio.wait((self._sending,), timeout=_ARRIVES_S)
            await end(self._sending)

    async def _send(self) -> None:
        chunk = bytes(self._buffer)
        self._buffer.clear()
        await self._sent()
        self._sending = asyncio.create_task(self._publish(self._count, chunk), name="chunk")
        self._count += 1
        self._piece.size += len(chunk)
        self._digest.update(chunk)

    async def _sent(self) -> None:
        if self._sending is not None:
            await self._sending

    async def _publish(self, number: int, chunk: bytes) -> None:
        subject = f"{self._prefix}.{number}"
        # So that one that was stored though its ack was lost is not stored again.
        headers = {"Nats-Msg-Id": subject}
        with mapped("store a chunk"):
            await patiently(
                self._bus, lambda: self._bus.js.publish(subject, chunk, headers=headers)
            )
