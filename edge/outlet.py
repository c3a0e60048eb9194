"""Gets attempts to workers: through the queue, and past it while nobody leads it.

A message carries what a worker needs to claim the attempt; large bodies stay here and are fetched.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Mapping
from functools import partial

from broker import envelope, subjects
from broker.bus import Bus
from broker.bus.jobs import Jobs
from broker.bus.layout import MAX_INLINE_BODY
from broker.bus.queue import STREAM_FULL, PubAck, Publisher
from broker.errors import InferenceError
from broker.routing import Target
from broker.tasks import Tasks
from broker.v1 import job_pb2
from edge.attempt import Attempt
from edge.exchange import Exchange

_log = logging.getLogger(__name__)

_STREAM = subjects.LANES[subjects.INTERACTIVE]
# An unclaimed attempt is published again this long after a worker of its pool was lost: the lost
# one may have held it, and nobody else gets it before its lease runs out.
_UNCLAIMED_S = 1.0
# While no stream answers, attempts go directly to workers for this long (R14).
_DIRECT_S = 15.0
_DIRECT_PAUSE_S = 0.1
# So long when nothing comes through to NATS at all.
_SILENT_S = 3.0


class Outlet:
    """See the module; `exchanges` are all that have not ended, by id."""

    def __init__(
        self, bus: Bus, publisher: Publisher, exchanges: Mapping[str, Exchange], tasks: Tasks
    ) -> None:
        self._publisher = publisher
        self._bus = bus
        self._jobs = Jobs(bus)
        self._exchanges = exchanges
        self._tasks = tasks
        self._outbox: deque[tuple[Exchange, Attempt]] = deque()
        self._outbox_filled = asyncio.Event()
        self._address = ""

    def start(self, address: str) -> None:
        """Publish from now on; workers find this edge at `address`."""
        self._address = address
        self._tasks.keep(self._pump, "publish")

    async def close(self) -> None:
        """Let withdrawals end; the owner of the tasks ends them."""
        await self._jobs.close()

    def publish(self, exchange: Exchange, attempt: Attempt) -> None:
        """Put an attempt into the queue; `exchange.refused` follows if it is not taken."""
        self._outbox.append((exchange, attempt))
        self._outbox_filled.set()

    def withdraw(self, attempt: Attempt) -> None:
        """Take a superseded or cancelled attempt out of the queue (R2)."""
        attempt.withdrawn = True
        if attempt.sequence:
            self._jobs.delete(_STREAM, attempt.sequence)

    def dead_letter(self, exchange: Exchange, attempt: Attempt) -> None:
        """Bury a job that killed the worker it ran on alone."""
        target = attempt.target
        job = job_pb2.Job.FromString(self._job(exchange, attempt))
        reason = f"worker lost {exchange.plan.losses + 1} times"
        self._tasks.spawn(
            self._jobs.bury(subjects.INTERACTIVE, target.provider, target.pool, job, reason),
            "dead letter",
        )

    def worker_lost(self, provider: str, pool: str) -> None:
        """A worker's link broke: what it held unclaimed has to run elsewhere (fault 1)."""
        self._tasks.spawn(self._republish_unclaimed(provider, pool), "republish")

    async def _pump(self) -> None:
        """Publish what exchanges put into the outbox."""
        while True:
            await self._outbox_filled.wait()
            self._outbox_filled.clear()
            while self._outbox:
                exchange, attempt = self._outbox.popleft()
                if not exchange.wants(attempt):
                    continue
                try:
                    await self._publish(exchange, attempt)
                except Exception:  # noqa: BLE001
                    # One request's trouble, or nobody's would ever be published again.
                    _log.exception("attempt %s.%d", exchange.request_id, attempt.number)
                    message = "the request could not be queued; the error is logged there"
                    exchange.refused(attempt, InferenceError("internal", message))

    async def _publish(self, exchange: Exchange, attempt: Attempt) -> None:
        await self._publisher.send(
            attempt.target.subject,
            self._job(exchange, attempt),
            partial(self._published, exchange, attempt),
            Nats_Msg_Id=subjects.message_id(exchange.request_id, attempt.number),
            # Whole seconds, rounded up; only a sweep: the timer is the deadline (R11).
            Nats_TTL=str(exchange.remaining_ms() // 1000 + 31),
        )

    def _published(self, exchange: Exchange, attempt: Attempt, ack: PubAck) -> None:
        if ack.error is None and not ack.unavailable and not ack.duplicate:
            attempt.sequence = ack.seq
            if attempt.withdrawn:
                self._jobs.delete(_STREAM, ack.seq)
            return
        if attempt.session is not None or not exchange.wants(attempt):
            return
        if ack.unavailable:
            self._tasks.spawn(self._go_direct(exchange, attempt), "direct")
        elif ack.error is not None and ack.error.err_code == STREAM_FULL:
            message = f"the queue of this model is full ({ack.error.description}); retry later"
            exchange.refused(attempt, InferenceError("queue_full", message, retry_after=1))
        else:
            why = "duplicate message id" if ack.error is None else ack.error.description
            _log.error("attempt %s.%d not queued: %s", exchange.request_id, attempt.number, why)
            error = InferenceError("broker_unavailable", f"the queue refused the request: {why}")
            exchange.refused(attempt, error)

    async def _go_direct(self, exchange: Exchange, attempt: Attempt) -> None:
        """No stream answered: offer later attempts to workers over core requests (R14)."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        give_up = min(begun + _DIRECT_S, exchange.deadline)
        target = attempt.target
        while loop.time() < give_up:
            if attempt.session is not None or not exchange.wants(attempt):
                return
            if self._bus.silent and loop.time() > begun + _SILENT_S:
                break
            attempt.withdrawn = True  # a stored copy is superseded by the next number
            queued, attempt.queued = attempt.queued, False
            attempt = exchange.supersede(attempt)
            attempt.queued = queued
            attempt.direct = True
            taken = await self._jobs.ask_direct(
                target.provider, target.pool, self._job(exchange, attempt)
            )
            if taken:
                # It holds the job now; if it dies its link breaks.
                await asyncio.sleep(_UNCLAIMED_S)
            else:
                await asyncio.sleep(_DIRECT_PAUSE_S)
        if attempt.session is None and exchange.wants(attempt):
            message = "the queue has no leader and no worker took the request; retry shortly"
            exchange.refused(attempt, InferenceError("broker_unavailable", message, retry_after=1))

    async def _republish_unclaimed(self, provider: str, pool: str) -> None:
        loop = asyncio.get_running_loop()
        lost_at = loop.time()
        await asyncio.sleep(_UNCLAIMED_S)
        running = list(self._exchanges.values())
        for exchange, attempt in [(one, attempt) for one in running for attempt in one.attempts]:
            if attempt.session is not None or attempt.direct:
                continue
            target = attempt.target
            if (target.provider, target.pool) == (provider, pool) and (
                attempt.published_at < lost_at
            ):
                exchange.handed_back(attempt)

    def _envelope(self, exchange: Exchange, attempt: Attempt) -> job_pb2.Job:
        return job_pb2.Job(
            request_id=exchange.request_id,
            attempt=attempt.number,
            losses=exchange.plan.losses,
            tenant=exchange.key.tenant,
            route=route_of(attempt.target),
            remaining_ms=exchange.remaining_ms(),
            delivery_address=self._address,
            claim_secret=attempt.secret,
            avoid_keys=(*exchange.plan.dead_keys, *exchange.plan.tired_keys),
            own_key=attempt.target.provider in exchange.provider_keys,
        )

    def _job(self, exchange: Exchange, attempt: Attempt) -> bytes:
        job = self._envelope(exchange, attempt)
        if len(exchange.raw) <= MAX_INLINE_BODY:
            return envelope.encode(job, exchange.raw)
        job.body_reference.size = len(exchange.raw)
        return job.SerializeToString()


def route_of(target: Target) -> job_pb2.Route:
    """A target as records and jobs name it."""
    return job_pb2.Route(provider=target.provider, pool=target.pool, model=target.model)
