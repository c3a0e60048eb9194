"""Job operations beside publishing: withdraw from a stream, ask a worker directly, bury."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable

from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js.errors import Error as JetStreamError

from broker import subjects
from broker.bus.connection import Bus
from broker.bus.ending import leaving
from broker.deadletter import letter
from broker.tasks import Tasks
from broker.v1 import job_pb2

_log = logging.getLogger(__name__)

# What a worker answers on the direct path (R14).
TAKEN = b"taken"
BUSY = b"busy"
# Deletions under way at once: each is a round trip.
_PARALLEL = 16
_BURY_S = 30.0


class Jobs:
    """Round trips that are off the hot path."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._slots = asyncio.Semaphore(_PARALLEL)
        self._tasks = Tasks()

    def delete(self, stream: str, sequence: int) -> None:
        """Delete a superseded job in the background: it never starts and frees its slot (R2)."""
        self._tasks.spawn(self._delete(stream, sequence), "delete job")

    async def _delete(self, stream: str, sequence: int) -> None:
        async with self._slots:
            try:
                await self._bus.js.delete_msg(stream, sequence)
            except JetStreamError as exc:
                _log.debug("job %s/%d is gone already: %s", stream, sequence, exc)
            except (NatsError, TimeoutError) as exc:
                # Its TTL sweeps it, and its claim would be refused.
                _log.warning("job %s/%d not deleted: %s", stream, sequence, exc)

    async def ask_direct(self, provider: str, pool: str, job: bytes) -> bool:
        """Offer a job to a worker without the stream: whether one has taken it."""
        try:
            reply = await self._bus.nc.request(subjects.direct(provider, pool), job, timeout=1)
        except (NatsError, TimeoutError):
            return False
        return reply.data == TAKEN

    async def bury(
        self, lane: str, provider: str, pool: str, job: job_pb2.Job, reason: str
    ) -> None:
        """Put a poison job into the dead-letter stream with its reason (R6); tries for 30 s."""
        # The same id for each try: the answer to an earlier one may have been lost.
        headers = {"Millrace-Reason": reason, "Nats-Msg-Id": uuid.uuid4().hex}
        subject = subjects.dead_letter(lane, provider, pool)
        kept = letter(job)
        deadline = asyncio.get_running_loop().time() + _BURY_S
        while True:
            try:
                await self._bus.js.publish(subject, kept, headers=headers)
            except (NatsError, TimeoutError) as exc:
                if asyncio.get_running_loop().time() > deadline:
                    _log.exception("dead letter not stored")
                    return
                _log.warning("dead letter not stored (%s); trying again", exc)
                await asyncio.sleep(1)
            else:
                return

    async def close(self) -> None:
        """Let deletions under way finish, for 2 s at most."""
        await self._tasks.close(2.0)


async def serve_direct(
    bus: Bus, provider: str, pool: str, take: Callable[[bytes], bool]
) -> Callable[[], Awaitable[None]]:
    """Answer direct offers: `take(job)` says whether there is room. Returns how to stop."""

    async def offered(msg: Msg) -> None:
        try:
            answer = TAKEN if take(msg.data) else BUSY
        except Exception:  # noqa: BLE001
            _log.exception("a direct offer could not be taken")
            answer = BUSY  # another worker may read what this one cannot
        await msg.respond(answer)

    subject = subjects.direct(provider, pool)
    subscription = await bus.nc.subscribe(subject, queue="workers", cb=offered)
    return leaving(subscription)


async def settle(bus: Bus, reply: str, answer: bytes) -> None:
    """Ack, nak or extend a delivery. Lost when NATS is away: the lease then runs out."""
    if bus.post(reply, answer):
        return
    try:
        await bus.nc.publish(reply, answer)
    except NatsError as exc:
        _log.warning("a delivery could not be settled: %s", exc)
