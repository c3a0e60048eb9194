"""Reads what became of batches' lines: as it comes, by ranges of lines, and which are there.

A line has one result at most, on its own subject (R17); who writes it is another matter. Everything
raises `BusError` while NATS cannot be used, but `follow`, which waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

import msgspec
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from broker import subjects
from broker.bus.connection import Bus, BusError
from broker.bus.steady import mapped, state_of
from broker.v1 import batch_pb2

_log = logging.getLogger(__name__)

STREAM = "RES"
# Bytes that the server answers with at once.
_RANGE_BYTES = 8 << 20
_TIMEOUT_S = 5.0
_LIST_S = 30.0
# What a follower asks for at a time, and how long the server waits for it to come.
_PULL = 1000
_PULL_BYTES = 4 << 20
_EXPIRES_S = 5.0
# Why a pull ends that is in order.
_ENDED = ("Message Size Exceeds MaxBytes", "Batch Completed")
_FORGET_S = 30.0
_RETRY_S = 0.25


@dataclass(frozen=True, slots=True)
class Seen:
    """A result as it was stored. `stored_ms` is when, in Unix milliseconds."""

    sequence: int
    batch_token: str
    data: bytes
    stored_ms: int


class Results:
    """See the module."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def range(self, batch_id: str, numbers: Sequence[int]) -> dict[int, batch_pb2.LineResult]:
        """The results of these lines, at most 1,000, as far as they are there."""
        found: dict[int, batch_pb2.LineResult] = {}
        missing = list(numbers)
        while missing:
            some, more = await self.some(batch_id, missing)
            found |= some
            if not more:
                break
            missing = [number for number in missing if number not in found]
        return found

    async def some(
        self, batch_id: str, numbers: Sequence[int]
    ) -> tuple[dict[int, batch_pb2.LineResult], bool]:
        """The same, 8 MB of them at most, and whether there are more."""
        data, more = await self._some(batch_id, numbers)
        results = map(batch_pb2.LineResult.FromString, data)
        return {result.number: result for result in results}, more

    async def _some(self, batch_id: str, numbers: Sequence[int]) -> tuple[list[bytes], bool]:
        """Results of some of the lines, and whether others are left."""
        asked = {
            "multi_last": [subjects.result(batch_id, number) for number in numbers],
            "max_bytes": _RANGE_BYTES,
            "batch": len(numbers),
            # Who they are of is in them; the client takes long over headers.
            "no_hdr": True,
        }
        found: list[bytes] = []
        over: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

        async def took(msg: Msg) -> None:
            headers = msg.headers or {}
            status = headers.get("Status")
            if status is None:
                found.append(msg.data)
            elif over.done():
                pass
            elif status == "204":
                over.set_result(headers.get("Nats-Num-Pending", "0") != "0")
            elif status == "404":
                over.set_result(False)
            else:
                over.set_exception(BusError(f"cannot read results: status {status}"))

        inbox = self._bus.nc.new_inbox()
        with mapped("read results"):
            subscription = await self._bus.nc.subscribe(inbox, cb=took)
            try:
                body = json.dumps(asked).encode()
                await self._bus.nc.publish(f"$JS.API.DIRECT.GET.{STREAM}", body, reply=inbox)
                async with asyncio.timeout(_TIMEOUT_S):
                    more = await over
            finally:
                await subscription.unsubscribe()
        return found, more and bool(found)

    async def present(self, batch_id: str) -> bytearray:
        """One bit for each line, from 0 to the last one that has a result: whether it has."""
        bits = bytearray()
        offset = 0
        while True:
            with mapped("list results"):
                state, total = await state_of(
                    self._bus, STREAM, subjects.results(batch_id), offset, timeout_s=_LIST_S
                )
            for subject in state.subjects:
                number = int(subject.rpartition(".")[2])
                if number >> 3 >= len(bits):
                    bits.extend(bytes((number >> 3) + 1 - len(bits)))
                bits[number >> 3] |= 1 << (number & 7)
            offset += len(state.subjects)
            if not state.subjects or offset >= total:
                return bits

    async def last(self) -> int:
        """The sequence of the newest result there is."""
        with mapped("read the state of results"):
            return (await self._bus.js.stream_info(STREAM)).state.last_seq

    async def purge(self, batch_id: str) -> None:
        """Forget all results of a batch."""
        with mapped("forget results"):
            await self._bus.js.purge_stream(STREAM, subject=subjects.results(batch_id))

    async def follow(self, start: int) -> AsyncGenerator[list[Seen], None]:
        """All results of all batches from a sequence on, in their order, for ever."""
        at = start
        while True:
            try:
                async with contextlib.aclosing(self._once(at)) as groups:
                    async for group in groups:
                        at = group[-1].sequence + 1
                        yield group
            except (NatsError, TimeoutError, OSError) as exc:
                _log.info("following results: %s; trying again", exc or type(exc).__name__)
            await asyncio.sleep(_RETRY_S)

    async def _once(self, start: int) -> AsyncGenerator[list[Seen], None]:
        """The same, until there is a gap or the consumer is lost."""
        config = ConsumerConfig(
            ack_policy=AckPolicy.NONE,
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=max(1, start),
            inactive_threshold=_FORGET_S,
            mem_storage=True,
            num_replicas=1,
        )
        js = self._bus.js
        name = (await js.add_consumer(STREAM, config)).name
        pull = _Pull(self._bus, name)
        unheard = self._bus.on_reconnect(pull.lost)
        try:
            await pull.start()
            delivered = 0
            while True:
                group, ended = await pull.next()
                for message in group:
                    delivered += 1
                    if message.consumer_sequence != delivered:
                        return  # something was lost on the way
                if group:
                    yield [message.seen for message in group]
                if ended:
                    await pull.ask()
        finally:
            unheard()
            await pull.close()
            with contextlib.suppress(NatsError, TimeoutError, OSError):
                await js.delete_consumer(STREAM, name)


@dataclass(frozen=True, slots=True)
class _Message:
    seen: Seen
    consumer_sequence: int


class _Pull:
    """One pull at a time on one consumer; what came meanwhile is taken at once."""

    def __init__(self, bus: Bus, consumer: str) -> None:
        self._bus = bus
        self._subject = f"$JS.API.CONSUMER.MSG.NEXT.{STREAM}.{consumer}"
        self._inbox = bus.nc.new_inbox()
        self._came: list[_Message] = []
        self._left = 0
        self._news = asyncio.Event()
        self._failed = ""
        self._subscription: Subscription | None = None

    async def start(self) -> None:
        """Make the first pull."""
        self._subscription = await self._bus.nc.subscribe(self._inbox, cb=self._took)
        await self.ask()

    async def ask(self) -> None:
        """Make the next pull: the last one has ended."""
        self._left = _PULL
        body = {
            "batch": _PULL,
            "max_bytes": _PULL_BYTES,
            "expires": int(_EXPIRES_S * 1e9),
        }
        await self._bus.nc.publish(self._subject, msgspec.json.encode(body), reply=self._inbox)

    async def next(self) -> tuple[list[_Message], bool]:
        """What came, and whether the pull has ended. Raises `TimeoutError` when it is lost."""
        if not self._came and self._left:
            async with asyncio.timeout(_EXPIRES_S + 2):
                await self._news.wait()
        self._news.clear()
        if self._failed:
            raise TimeoutError(self._failed)
        came, self._came = self._came, []
        return came, self._left <= 0

    async def close(self) -> None:
        """Leave."""
        if self._subscription is not None:
            with contextlib.suppress(NatsError):
                await self._subscription.unsubscribe()

    async def _took(self, msg: Msg) -> None:
        status = msg.headers.get("Status") if msg.headers and not msg.data else None
        if status is None:
            self._left -= 1
            # $JS.ACK.<stream>.<consumer>.<deliveries>.<sequence>.<of the consumer>.<ns>.<pending>
            parts = msg.reply.split(".")[-5:]
            seen = Seen(
                int(parts[1]),
                msg.subject.split(".", 2)[1],
                msg.data,
                int(parts[3]) // 1_000_000,
            )
            self._came.append(_Message(seen, int(parts[2])))
        elif status in {"404", "408", "409"}:
            self._left = 0
            why = (msg.headers or {}).get("Description", "")
            if status == "409" and why not in _ENDED:
                self._failed = why or "the pull was refused"
        elif status == "503":
            self._failed = "nobody answers"
        self._news.set()

    def lost(self) -> None:
        """The connection is another one: who knows what the server still has of this."""
        self._failed = "the connection was lost"
        self._news.set()
