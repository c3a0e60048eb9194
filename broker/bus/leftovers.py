"""Deletes objects that nothing refers to: of writers that died, of files that expired, of batches.

Whatever is in the stores of files has to be a piece in a record of the bucket `files`; large
results of lines, and what else a batch keeps apart, are of no use when it is not active any more.
Any number of processes may do it. Objects are listed before what refers to them is read, and what
is young is left alone, so that nothing goes that is still being written.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import AsyncGenerator

from google.protobuf.message import DecodeError
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from broker import subjects
from broker.bus.batches import Batches
from broker.bus.connection import Bus, BusError
from broker.bus.objects import WRITE_WITHIN_S, Objects
from broker.bus.responses import OF_BATCHES, Blobs
from broker.bus.steady import mapped
from broker.v1 import file_pb2
from broker.wallclock import now

STORES = (subjects.BATCH_IN, subjects.BATCH_OUT, subjects.FILES)
# Twice what a writer has, for clocks that differ.
_OLD_S = 2 * WRITE_WITHIN_S
_EVERY_S = 600.0
_FETCHED = 256
_FETCH_S = 5.0
# The server forgets the consumer of a sweep that died after this long.
_FORGET_S = 30.0
_OURS = re.compile(r"[0-9a-f]{32}")

_log = logging.getLogger(__name__)


async def keep_swept(bus: Bus) -> None:
    """Sweep again and again; a task of the broker process."""
    while True:
        try:
            if count := await sweep(bus) + await sweep_results(bus):
                _log.info("deleted %d objects that nothing referred to", count)
        except BusError as exc:
            _log.warning("sweeping goes on later: %s", exc)
        await asyncio.sleep(_EVERY_S)


async def sweep(bus: Bus, older_than_s: float = _OLD_S) -> int:
    """Delete what is older and nothing refers to; returns how many objects that was."""
    objects = Objects(bus)
    there = {(store, name) for store in STORES for name in await objects.names(store)}
    if not there:
        return 0
    async with contextlib.aclosing(_referred_to(bus)) as pieces:
        async for piece in pieces:
            there.discard((piece.store, piece.name))
    count = 0
    for store, name in there:
        if _OURS.fullmatch(name) and now() - int(name[:8], 16) >= older_than_s:
            await objects.delete(store, name)
            count += 1
    return count


async def sweep_results(bus: Bus) -> int:
    """Delete what batches kept apart that are over; returns how many objects that was."""
    blobs = Blobs(bus)
    there = [name for name in await blobs.names() if name.startswith(OF_BATCHES)]
    if not there:
        return 0
    active = await Batches(bus).active()
    count = 0
    for name in there:
        if name.split("/")[1] not in active:
            await blobs.remove(name)
            count += 1
    return count


async def _referred_to(bus: Bus) -> AsyncGenerator[file_pb2.StoredPiece, None]:
    """The pieces of all files, and of all parts of uploads."""
    stream = f"KV_{subjects.FILES}"
    config = ConsumerConfig(
        ack_policy=AckPolicy.NONE,
        deliver_policy=DeliverPolicy.LAST_PER_SUBJECT,
        filter_subject=f"$KV.{subjects.FILES}.>",
        inactive_threshold=_FORGET_S,
        mem_storage=True,
        num_replicas=1,
    )
    with mapped("read what refers to objects"):
        consumer = await bus.js.add_consumer(stream, config)
        left = consumer.num_pending or 0
        pull = await bus.js.pull_subscribe_bind(consumer.name, stream)
        try:
            while left:
                for message in await pull.fetch(min(left, _FETCHED), timeout=_FETCH_S):
                    left = message.metadata.num_pending
                    try:
                        pieces = _pieces(message.subject, message.data)
                    except DecodeError as exc:
                        raise BusError(f"{message.subject} is no record") from exc
                    for piece in pieces:
                        yield piece
        finally:
            await pull.unsubscribe()
            await bus.js.delete_consumer(stream, consumer.name)


def _pieces(subject: str, value: bytes) -> list[file_pb2.StoredPiece]:
    """Those that a record refers to."""
    kind = subject.removeprefix(f"$KV.{subjects.FILES}.")[:1]
    if kind == "p":
        return [file_pb2.StoredPart.FromString(value).piece]
    if kind == "u":
        return list(file_pb2.StoredUpload.FromString(value).file.pieces)
    return list(file_pb2.StoredFile.FromString(value).pieces)
