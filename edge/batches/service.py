"""Batches for both front ends: what callers may do to their records.

What is not there and what is another owner's are the same: `not_found`. Everything raises
`InferenceError`. What is asked for is stored; the process that runs the batch finds it there.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from broker.batch import names, states
from broker.bus import Bus
from broker.bus.batches import Batches
from broker.bus.files import Files
from broker.bus.responses import Blobs, ConflictError
from broker.bus.results import Results
from broker.errors import InferenceError
from broker.keys import KeyRecord
from broker.translate.batches import STATUSES
from broker.translate.refusals import invalid
from broker.v1 import batch_pb2, file_pb2
from broker.wallclock import now, now_ms
from edge.store import told

_RANDOM = 10
# What of a batch says that it is the same one, asked for again; the input of one that runs lines
# again is replaced by a file of its own.
_ASKED = ("endpoint", "window_s", "retry_of", "options")
# Why nothing can be changed about a batch any more, where it is not over.
_TOO_LATE = {
    states.FINALIZING: "all of its lines have ended, and its files are being written",
    states.CANCELLING: "it is being cancelled",
}


class BatchService:
    """See the module. `files` is where inputs and outputs are."""

    def __init__(self, bus: Bus, files: Files) -> None:
        self.batches = Batches(bus)
        self.results = Results(bus)
        self.blobs = Blobs(bus)
        self.files = files

    async def create(
        self, key: KeyRecord, wanted: batch_pb2.StoredBatch, name: str = ""
    ) -> batch_pb2.StoredBatch:
        """Have a batch run. The same `name` of the same owner is the same batch."""
        file = await self._input(key.owner, wanted.input_file_id)
        if 0 < file.expires_at < now() + wanted.window_s:
            message = (
                f"The file '{file.id}' expires before the completion window of the batch ends."
            )
            raise invalid("input_file_id", message)
        return await self._create(key, wanted, name)

    async def get(self, owner: str, batch_id: str) -> batch_pb2.StoredBatch:
        """The batch of this id."""
        record = None
        if names.is_id(batch_id):
            with told():
                record = await self.batches.get(owner, batch_id)
        return _found(record, batch_id)

    async def list(
        self, owner: str, after: str, limit: int
    ) -> tuple[list[batch_pb2.StoredBatch], bool]:
        """Batches, newest first, and whether there are more."""
        if after and not names.is_id(after):
            raise invalid("after", f"'{after[:60]}' is not the id of a batch.")
        with told():
            return await self.batches.list(owner, after, limit)

    async def cancel(self, owner: str, batch_id: str) -> batch_pb2.StoredBatch:
        """Begin no more lines. One that is being cancelled stays as it is."""
        return await self._change(
            owner,
            batch_id,
            lambda record: states.cancel(record, now()),
            states.CANCELLING,
            states.CANCELLED,
        )

    async def pause(self, owner: str, batch_id: str) -> batch_pb2.StoredBatch:
        """Begin no more lines until it is resumed."""
        return await self._change(owner, batch_id, states.pause, *states.OPEN)

    async def resume(self, owner: str, batch_id: str) -> batch_pb2.StoredBatch:
        """Go on."""
        return await self._change(owner, batch_id, states.resume, *states.OPEN)

    async def retry(self, key: KeyRecord, batch_id: str, name: str = "") -> batch_pb2.StoredBatch:
        """Run the lines again that have no answer, in a batch of their own."""
        first = await self.get(key.owner, batch_id)
        if first.status not in states.FINAL or first.status == states.FAILED:
            raise _not_now(first, "retry it when it has ended")
        if first.in_progress_at and not first.error_file_id:
            raise invalid("batch_id", f"Every line of '{batch_id}' has an answer.")
        wanted = batch_pb2.StoredBatch(
            input_file_id=first.input_file_id,
            endpoint=first.endpoint,
            completion_window=first.completion_window,
            window_s=first.window_s,
            metadata=first.metadata,
            output_expires_after_s=first.output_expires_after_s,
            options=first.options,
            # Of one that ended before its first line, all that it would have run.
            retry_of=first.id if first.in_progress_at else first.retry_of,
        )
        await self._input(key.owner, wanted.input_file_id)
        # Asked for twice, it is the same: what failed is run again once.
        return await self._create(key, wanted, name or f"retry of {batch_id}")

    async def watch(self, owner: str, batch_id: str) -> AsyncGenerator[batch_pb2.StoredBatch, None]:
        """The batch now, after every change and every 5 s, until it is over."""
        yield await self.get(owner, batch_id)
        with told():
            async with aclosing(self.batches.watch(owner, batch_id)) as records:
                async for record in records:
                    yield record

    async def _create(
        self, key: KeyRecord, wanted: batch_pb2.StoredBatch, name: str
    ) -> batch_pb2.StoredBatch:
        made_ms = now_ms()
        record = batch_pb2.StoredBatch()
        record.CopyFrom(wanted)
        record.id = names.new_id(made_ms, os.urandom(_RANDOM))
        if name:
            with told():
                record.id = await self.batches.named(key.owner, _digest(name), record.id)
        record.owner, record.tenant = key.owner, key.tenant
        record.status = states.VALIDATING
        record.created_at = made_ms // 1000
        record.expires_at = record.created_at + record.window_s
        with told():
            try:
                await self.batches.create(record)
            except ConflictError:
                there = await self.batches.get(key.owner, record.id)
                if there is None or not _same(there, record):
                    message = "this idempotency key was used for another batch"
                    raise InferenceError("idempotency_conflict", message) from None
                if there.status not in states.FINAL:
                    # Whoever made it may not have come to that.
                    await self.batches.touch(key.owner, there.id)
                return there
        return record

    async def _input(self, owner: str, file_id: str) -> file_pb2.StoredFile:
        with told():
            file = await self.files.get(owner, file_id)
        if file is None:
            raise invalid("input_file_id", f"No such File object: {file_id[:60]}")
        if file.purpose != file_pb2.FILE_PURPOSE_BATCH:
            message = f"The file '{file_id}' has to be uploaded with purpose 'batch'."
            raise invalid("input_file_id", message)
        return file

    async def _change(
        self,
        owner: str,
        batch_id: str,
        edit: Callable[[batch_pb2.StoredBatch], bool],
        *already: int,
    ) -> batch_pb2.StoredBatch:
        """Edit a record; in a status that is not `already` fine, no change is a conflict."""
        changed = False

        def noted(record: batch_pb2.StoredBatch) -> bool:
            nonlocal changed
            changed = edit(record)
            return changed

        record = None
        if names.is_id(batch_id):
            with told():
                record = await self.batches.change(owner, batch_id, noted)
        found = _found(record, batch_id)
        if not changed and found.status not in already:
            raise _not_now(found, _TOO_LATE.get(found.status, "it is over"))
        return found


def _found(record: batch_pb2.StoredBatch | None, batch_id: str) -> batch_pb2.StoredBatch:
    if record is None:
        message = f"No batch found with id '{batch_id[:60]}'."
        raise InferenceError("not_found", message, param="batch_id")
    return record


def _not_now(record: batch_pb2.StoredBatch, why: str) -> InferenceError:
    status = STATUSES[record.status]
    return InferenceError(
        "conflict", f"The batch '{record.id}' is {status}: {why}.", param="batch_id"
    )


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def _same(one: batch_pb2.StoredBatch, other: batch_pb2.StoredBatch) -> bool:
    if not one.retry_of and one.input_file_id != other.input_file_id:
        return False
    return all(getattr(one, name) == getattr(other, name) for name in _ASKED)
