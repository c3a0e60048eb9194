"""The log of a background response: hub events on `events.<id>`, in the order they were shown.

Every append names the message that has to be the last one before it, so that a worker which was
replaced can add nothing more (R19).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator

import msgspec
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js.api import ConsumerConfig, DeliverPolicy, RawStreamMsg
from nats.js.errors import NotFoundError

from broker import subjects
from broker.bus.connection import Bus, BusError
from broker.bus.layout import MAX_INLINE_BODY
from broker.bus.queue import WRONG_LAST, Publisher
from broker.bus.responses import Blobs
from broker.v1 import event_pb2, stored_pb2

_log = logging.getLogger(__name__)

STREAM = "EVENTS"
_RETRY_S = 0.25
# A follower reads anew when it heard nothing for this long: consumers get lost with servers.
_SILENCE_S = 30.0
# The server forgets a follower that is gone after this long.
_FORGET_S = 10.0
_TERMINAL = ("completed", "failed")


class FencedError(Exception):
    """Somebody else wrote into the log: this writer was replaced, or the response cancelled."""


class EventLog:
    """Reads and writes logs. Raises `BusError` where NATS cannot be used."""

    def __init__(self, bus: Bus, blobs: Blobs) -> None:
        self._bus = bus
        self._blobs = blobs

    async def append(
        self,
        publisher: Publisher,
        response_id: str,
        logged: stored_pb2.LoggedEvents,
        *,
        last: int,
        patience_s: float,
    ) -> int:
        """Add to the log; returns the message's sequence, the `last` of the next append.

        Tries for `patience_s` while no stream answers. Raises `FencedError` when `last` is not the
        last message any more.
        """
        if logged.ByteSize() > MAX_INLINE_BODY:
            part = await self._blobs.put(subjects.events(response_id), logged.SerializeToString())
            logged = stored_pb2.LoggedEvents(attempt=logged.attempt, object=part)
        data = logged.SerializeToString()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + patience_s
        first = True
        while True:
            ack = await publisher.request(
                subjects.events(response_id), data, Nats_Expected_Last_Subject_Sequence=str(last)
            )
            if ack.error is None and not ack.unavailable:
                return ack.seq
            if ack.error is not None and ack.error.err_code in WRONG_LAST:
                # An earlier try may have been taken, and the answer to it lost.
                newest = None if first else await self._newest(response_id)
                if newest is not None and newest.data == data:
                    return newest.seq or 0
                raise FencedError(response_id)
            first = False
            if loop.time() > deadline:
                why = ack.error.description if ack.error else "no stream answers"
                raise BusError(f"cannot write the log of {response_id}: {why}")
            await asyncio.sleep(_RETRY_S)

    async def last(self, response_id: str) -> int:
        """Sequence of the last message of a log; 0 when it is empty."""
        newest = await self._newest(response_id)
        return (newest.seq or 0) if newest is not None else 0

    async def _newest(self, response_id: str) -> RawStreamMsg | None:
        try:
            return await self._bus.js.get_last_msg(STREAM, subjects.events(response_id))
        except NotFoundError:
            return None
        except (NatsError, TimeoutError) as exc:
            raise BusError(f"cannot read the log of {response_id}: {exc}") from exc

    async def read(self, response_id: str, attempt: int) -> tuple[list[event_pb2.Event], int]:
        """All events of this attempt and later ones, and the sequence of the last message."""
        events: list[event_pb2.Event] = []
        last = await self.last(response_id)
        if not last:
            return events, 0
        async with contextlib.aclosing(self._messages(response_id)) as messages:
            async for sequence, logged in messages:
                if logged.attempt >= attempt:
                    events.extend(logged.events)
                if sequence >= last:
                    return events, sequence
        return events, last

    async def follow(
        self, response_id: str, attempt: int
    ) -> AsyncGenerator[list[event_pb2.Event], None]:
        """The events of this attempt and later ones as they come, up to the terminal one."""
        async with contextlib.aclosing(self._messages(response_id)) as messages:
            async for _, logged in messages:
                if logged.attempt < attempt or not logged.events:
                    continue
                yield list(logged.events)
                if logged.events[-1].WhichOneof("kind") in _TERMINAL:
                    return

    async def purge(self, response_id: str) -> None:
        """Forget a log and its large parts."""
        names = []
        last = await self.last(response_id)
        if not last:
            return
        async with contextlib.aclosing(self._messages(response_id, large=False)) as messages:
            async for sequence, logged in messages:
                if logged.HasField("object"):
                    names.append(logged.object.name)
                if sequence >= last:
                    break
        try:
            await self._bus.js.purge_stream(STREAM, subject=subjects.events(response_id))
        except (NatsError, TimeoutError) as exc:
            raise BusError(f"cannot delete the log of {response_id}: {exc}") from exc
        for name in names:
            await self._blobs.discard(name)

    async def _messages(
        self, response_id: str, *, large: bool = True
    ) -> AsyncGenerator[tuple[int, stored_pb2.LoggedEvents], None]:
        """Every message of a log with its sequence, for ever; survives reconnects."""
        seen = 0
        while True:
            broken = asyncio.Event()
            unheard = self._bus.on_reconnect(broken.set)
            try:
                async for message in self._once(response_id, seen + 1, broken):
                    sequence = message.metadata.sequence.stream
                    if sequence <= seen:
                        continue
                    seen = sequence
                    logged = stored_pb2.LoggedEvents.FromString(message.data)
                    if large and logged.HasField("object"):
                        logged = await self._fetch(logged)
                    yield sequence, logged
            except (NatsError, TimeoutError, msgspec.DecodeError) as exc:
                _log.info("reading the log of %s failed: %s; trying again", response_id, exc)
                await asyncio.sleep(_RETRY_S)
            finally:
                unheard()

    async def _once(
        self, response_id: str, start: int, broken: asyncio.Event
    ) -> AsyncGenerator[Msg, None]:
        """Messages from `start` on, until there is a reason to ask again."""
        arrived: asyncio.Queue[Msg] = asyncio.Queue()
        subscription = await self._bus.js.subscribe(
            subjects.events(response_id),
            stream=STREAM,
            ordered_consumer=True,
            config=ConsumerConfig(
                deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
                opt_start_seq=start,
                inactive_threshold=_FORGET_S,
            ),
            cb=arrived.put,
        )
        over = asyncio.ensure_future(broken.wait())
        try:
            while not broken.is_set():
                message = asyncio.ensure_future(arrived.get())
                try:
                    await asyncio.wait(
                        (message, over), timeout=_SILENCE_S, return_when=asyncio.FIRST_COMPLETED
                    )
                    if not message.done():
                        return
                    yield message.result()
                finally:
                    message.cancel()
        finally:
            over.cancel()
            with contextlib.suppress(NatsError, TimeoutError):
                await subscription.unsubscribe()

    async def _fetch(self, logged: stored_pb2.LoggedEvents) -> stored_pb2.LoggedEvents:
        data = await self._blobs.get(logged.object.name)
        if data is None:
            raise BusError("a part of the log is gone")
        return stored_pb2.LoggedEvents.FromString(data)
