"""Records of batches in their bucket, changed by compare-and-set; what is active, and what stops.

Edges create records and ask for things, the process that runs a batch writes the rest. Everything
raises `BusError` while NATS cannot be used.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

from nats.errors import Error as NatsError
from nats.js.errors import KeyNotFoundError, KeyWrongLastSequenceError, NotFoundError

from broker import subjects
from broker.batch.states import FINAL
from broker.bus.connection import Bus, BusError
from broker.bus.responses import ConflictError
from broker.bus.steady import last_subjects_of, mapped, subjects_of
from broker.v1 import batch_pb2

# Tries of `change` against others that change the same record.
_TRIES = 50
# Records that are read at a time.
_PARALLEL = 32
# A watcher looks by itself, too: it may be blind after its server was killed.
_LOOK_S = 5.0
_STREAM = f"KV_{subjects.BATCHES}"
_PREFIX = f"$KV.{subjects.BATCHES}."
Edit = Callable[[batch_pb2.StoredBatch], bool]


@dataclass(slots=True)
class KeptBatch:
    """A record as it was read."""

    record: batch_pb2.StoredBatch
    revision: int


class Batches:
    """See the module. An unknown id and another owner's are the same: None."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    # For whoever asks.

    async def create(self, record: batch_pb2.StoredBatch) -> None:
        """Have a new batch run. Raises `ConflictError` when there is one of this id.

        It becomes active before it exists: one without a record is dropped after a while, but a
        record that nobody looks for would never run.
        """
        await self.touch(record.owner, record.id)
        await self._write(record, 0)

    async def named(self, owner: str, digest: str, batch_id: str) -> str:
        """The id of the batch that its owner calls so: `batch_id`, unless there is one already.

        `digest` is of the name.
        """
        self._reachable()
        key = subjects.batch_name_key(owner, digest)
        with mapped("name a batch"):
            bucket = await self._bus.kv(subjects.BATCHES)
            try:
                await bucket.create(key, batch_id.encode())
            except KeyWrongLastSequenceError:
                entry = await bucket.get(key)
                return (entry.value or b"").decode()
        return batch_id

    async def get(self, owner: str, batch_id: str) -> batch_pb2.StoredBatch | None:
        """The record of this id."""
        kept = await self.read(subjects.batch_key(owner, batch_id))
        # Two owners may share a token.
        if kept is None or kept.record.owner != owner or kept.record.id != batch_id:
            return None
        return kept.record

    async def list(
        self, owner: str, after: str = "", limit: int = 20
    ) -> tuple[list[batch_pb2.StoredBatch], bool]:
        """Up to `limit` batches of an owner, newest first, and whether there are more.

        `after` is the id of the last one of the page before.
        """
        pattern = _PREFIX + subjects.batch_key(owner, "x").removesuffix("x") + "*"
        before = _PREFIX + subjects.batch_key(owner, after) if after else ""
        found: list[batch_pb2.StoredBatch] = []
        with mapped("list batches"):
            await self._bus.kv(subjects.BATCHES)
            pages = last_subjects_of(self._bus, _STREAM, pattern, before)
            async with contextlib.aclosing(pages):
                async for page in pages:
                    keys = [subject.removeprefix(_PREFIX) for subject in page]
                    while keys and len(found) <= limit:
                        step, keys = keys[:_PARALLEL], keys[_PARALLEL:]
                        read = await asyncio.gather(*map(self.read, step))
                        found += [
                            kept.record for kept in read if kept and kept.record.owner == owner
                        ]
                    if len(found) > limit:
                        break
        return found[:limit], len(found) > limit

    async def change(self, owner: str, batch_id: str, edit: Edit) -> batch_pb2.StoredBatch | None:
        """Read, edit and write until nobody interferes; returns the record as it is then.

        `edit` returns False to leave it as it is. None when there is none. Whoever runs the batch
        is told.
        """
        for _ in range(_TRIES):
            kept = await self.read(subjects.batch_key(owner, batch_id))
            if kept is None or kept.record.owner != owner:
                return None
            if not edit(kept.record):
                return kept.record
            try:
                await self.update(kept)
            except ConflictError:
                await asyncio.sleep(0.01)
                continue
            if kept.record.status not in FINAL:
                # Only news: what was asked for is in the record.
                with contextlib.suppress(BusError):
                    await self.touch(owner, batch_id)
            return kept.record
        raise BusError(f"{batch_id} is changed by others all the time")

    async def watch(self, owner: str, batch_id: str) -> AsyncGenerator[batch_pb2.StoredBatch, None]:
        """The record now, after every change and every 5 s, up to the last one there is."""
        key = subjects.batch_key(owner, batch_id)
        seen = 0
        while True:
            with mapped("watch a batch"):
                watcher = await (await self._bus.kv(subjects.BATCHES)).watch(key)
            try:
                while self._bus.connected:
                    kept = await self.read(key)
                    if kept is None or kept.record.owner != owner:
                        return
                    if kept.revision != seen:
                        seen = kept.revision
                        yield kept.record
                        if kept.record.status in FINAL:
                            return
                    try:
                        async with asyncio.timeout(_LOOK_S):
                            await watcher._updates.get()
                    except TimeoutError:
                        seen = 0
            finally:
                with contextlib.suppress(NatsError, TimeoutError):
                    await watcher.stop()  # type: ignore[no-untyped-call]
            await asyncio.sleep(0.5)

    # For whoever runs them.

    async def read(self, key: str) -> KeptBatch | None:
        """The record under a key."""
        with mapped("read a batch"):
            bucket = await self._bus.kv(subjects.BATCHES)
            try:
                entry = await bucket.get(key)
            except KeyNotFoundError:
                return None
        record = batch_pb2.StoredBatch.FromString(entry.value or b"")
        return KeptBatch(record, entry.revision or 0)

    async def update(self, kept: KeptBatch) -> None:
        """Write a record that was read. Raises `ConflictError` when it was changed since."""
        kept.revision = await self._write(kept.record, kept.revision)

    async def touch(self, owner: str, batch_id: str) -> None:
        """Say that a batch is active, or that there is news of it."""
        key = subjects.batch_key(owner, batch_id)
        # News has to differ from what was there.
        value = f"{key} {uuid.uuid4().hex}"
        await self._put(subjects.active_key(batch_id), value.encode())

    async def active(self) -> set[str]:
        """The tokens of all batches that are not over."""
        with mapped("list active batches"):
            found = await subjects_of(self._bus, _STREAM, _PREFIX + "active.*")
        return {subject.rpartition(".")[2] for subject in found}

    async def stop(self, batch_id: str, code: str) -> None:
        """Have workers end the queued lines of a batch with this error."""
        await self._put(subjects.stop_key(batch_id), code.encode())

    async def go_live(self, batch_id: str) -> None:
        """Have workers run at once what is still at providers."""
        await self._put(subjects.live_key(batch_id), b"1")

    async def stopped_since(self) -> dict[str, int]:
        """Batches whose lines are stopped, and since when, in Unix seconds."""
        found = {}
        with mapped("list stopped batches"):
            pattern = _PREFIX + subjects.stop_key("x").removesuffix("x") + "*"
            for subject in await subjects_of(self._bus, _STREAM, pattern):
                with contextlib.suppress(NotFoundError):
                    written = (await self._bus.js.get_last_msg(_STREAM, subject)).time
                    if written is not None:
                        found[subject.rpartition(".")[2]] = int(written.timestamp())
        return found

    async def let_go(self, batch_id: str) -> None:
        """The batch is over: it is not active any more."""
        await self._forget(subjects.active_key(batch_id))

    async def unstop(self, batch_id: str) -> None:
        """None of its lines is queued any more."""
        await self._forget(subjects.stop_key(batch_id))

    async def end_live(self, batch_id: str) -> None:
        """Nothing of it is at providers any more."""
        await self._forget(subjects.live_key(batch_id))

    async def _put(self, key: str, value: bytes) -> None:
        self._reachable()
        with mapped("write what is active"):
            await (await self._bus.kv(subjects.BATCHES)).put(key, value)

    async def _forget(self, key: str) -> None:
        self._reachable()
        with mapped("delete what is over"):
            # A deletion through the bucket would leave a mark for ever.
            await self._bus.js.purge_stream(_STREAM, subject=_PREFIX + key)

    async def _write(self, record: batch_pb2.StoredBatch, revision: int) -> int:
        self._reachable()
        key = subjects.batch_key(record.owner, record.id)
        with mapped("store a batch"):
            bucket = await self._bus.kv(subjects.BATCHES)
            data = record.SerializeToString()
            try:
                if revision:
                    return await bucket.update(key, data, last=revision)
                return await bucket.create(key, data)
            except KeyWrongLastSequenceError as exc:
                raise ConflictError(record.id) from exc

    def _reachable(self) -> None:
        if not self._bus.connected:
            # The client would send it whenever it is connected again, after its writer gave up.
            raise BusError("cannot store it: NATS cannot be reached")
