"""Runs a request once for each name that its caller gave it: others with the name get its answer.

A name is claimed in the queue's store before the request is accepted. The same request with the
same name waits for the answer while it runs, on whichever edge, and is given it afterwards; one
that failed may be tried again. The name of a dead edge's request is taken over.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Sequence

from broker.bus import Bus, BusError
from broker.bus.layout import MAX_INLINE_BODY
from broker.bus.once import KEPT_S, Found, OnceStore
from broker.errors import InferenceError
from broker.v1 import event_pb2, generation_pb2, stored_pb2
from edge.http.seams import ExchangeLike

_log = logging.getLogger(__name__)

# A claim outlives its request by this much, then it is nobody's.
_SPARE_S = 60.0
# How often a running request is looked after, at first and at most.
_LOOK_S = 0.02
_MOST_LOOK_S = 0.25

Take = Callable[[Sequence[event_pb2.Event]], bool]


class Replayed:
    """An answer that was given before, as an exchange."""

    def __init__(self, record: stored_pb2.Once) -> None:
        self.request_id = record.request_id
        self.answer_id = record.answer_id
        self.created = record.created
        self.route = ""
        self._events = list(record.events)

    async def next(self) -> Sequence[event_pb2.Event]:
        """All of it at once."""
        events, self._events = self._events, []
        return events

    def divert(self, take: Take) -> None:
        """Everything came with `next`."""

    def close(self) -> None:
        """Nothing runs."""


class Recorded:
    """A running exchange whose answer is kept; nobody is told the end before it is."""

    def __init__(self, inner: ExchangeLike, claim: _Claim) -> None:
        self._inner = inner
        self._claim = claim
        self._events: list[event_pb2.Event] = []
        self._size = 0
        self.request_id = inner.request_id
        self.answer_id = inner.answer_id
        self.created = inner.created
        self.route = inner.route

    async def next(self) -> Sequence[event_pb2.Event]:
        """As the exchange's own."""
        batch = await self._inner.next()
        self._keep(batch)
        if batch and batch[-1].HasField("completed"):
            small = self._size <= MAX_INLINE_BODY
            await self._claim.answered(self._inner, self._events if small else [])
        return batch

    def divert(self, take: Take) -> None:
        """As the exchange's own."""

        def both(batch: Sequence[event_pb2.Event]) -> bool:
            taken = take(batch)
            if taken:
                self._keep(batch)
            return taken

        self._inner.divert(both)

    def close(self) -> None:
        """The caller is done or gone: what was not answered may be asked again."""
        self._inner.close()
        self._claim.release()

    def _keep(self, batch: Sequence[event_pb2.Event]) -> None:
        if self._size <= MAX_INLINE_BODY:
            self._events.extend(batch)
            self._size += sum(event.ByteSize() for event in batch)


class _Claim:
    """A name that this edge runs a request for."""

    def __init__(
        self, store: OnceStore, tenant: str, name: str, record: stored_pb2.Once, revision: int
    ) -> None:
        self._store = store
        self._tenant = tenant
        self._name = name
        self._record = record
        self._revision = revision
        self._over = False
        self._task: asyncio.Task[None] | None = None

    async def answered(self, exchange: ExchangeLike, events: Sequence[event_pb2.Event]) -> None:
        """Keep the answer. That it cannot be kept is no reason to keep it from the caller."""
        self._over = True
        record = self._record
        record.done = True
        record.answer_id, record.created = exchange.answer_id, exchange.created
        record.events.extend(events)
        try:
            await self._store.replace(self._tenant, self._name, record, self._revision, KEPT_S)
        except BusError as exc:
            _log.warning("the answer of %s is not kept: %s", record.request_id, exc)

    def release(self) -> None:
        """Let others run it."""
        if not self._over:
            self._over = True
            self._task = asyncio.create_task(self._release(), name="release")

    async def _release(self) -> None:
        try:
            await self._store.delete(self._tenant, self._name, self._revision)
        except BusError as exc:
            _log.warning("an idempotency key stays claimed until its time is over: %s", exc)


class OnceOnly:
    """See the module. `alive` says whether an edge of this name is there."""

    def __init__(self, bus: Bus, edge: str, alive: Callable[[str], Awaitable[bool]]) -> None:
        self._store = OnceStore(bus)
        self._edge = edge
        self._alive = alive

    async def submit(
        self,
        run: Callable[[], Awaitable[ExchangeLike]],
        request: generation_pb2.Request,
        *,
        tenant: str,
        name: str,
        request_id: str,
        timeout_s: float,
    ) -> Recorded | Replayed:
        """The exchange that `run` makes, or the answer of the request that has the name.

        Raises `InferenceError`: idempotency_conflict when the name is another request's, deadline
        when it is not answered in time, and whatever `run` does.
        """
        digest = hashlib.sha256(request.SerializeToString(deterministic=True)).digest()
        record = stored_pb2.Once(request_hash=digest, request_id=request_id, edge=self._edge)
        try:
            async with asyncio.timeout(timeout_s):
                revision = await self._claimed(tenant, name, record, timeout_s + _SPARE_S)
        except TimeoutError:
            message = "the request that runs with this idempotency key was not answered in time"
            raise InferenceError("deadline", message) from None
        except BusError as exc:
            raise InferenceError("broker_unavailable", str(exc), retry_after=1) from exc
        if isinstance(revision, stored_pb2.Once):
            return Replayed(revision)
        claim = _Claim(self._store, tenant, name, record, revision)
        try:
            return Recorded(await run(), claim)
        except BaseException:
            claim.release()
            raise

    async def _claimed(
        self, tenant: str, name: str, record: stored_pb2.Once, ttl_s: float
    ) -> int | stored_pb2.Once:
        """The revision of our claim, or the record of the answer that there is."""
        pause_s = _LOOK_S
        while True:
            if revision := await self._store.create(tenant, name, record, ttl_s):
                return revision
            found = await self._store.get(tenant, name)
            if found is None:
                continue  # it failed meanwhile: ours is next
            if answer := _answer(found, record):
                return answer
            if not await self._alive(found.record.edge):
                revision = await self._store.replace(tenant, name, record, found.revision, ttl_s)
                if revision:
                    return revision
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, _MOST_LOOK_S)


def _answer(found: Found, record: stored_pb2.Once) -> stored_pb2.Once | None:
    """The answer, if it is there; raises `InferenceError` where there is none to be had."""
    if found.record.request_hash != record.request_hash:
        raise InferenceError(
            "idempotency_conflict",
            "this idempotency key was used for another request; choose a new one for each request",
            param="Idempotency-Key",
        )
    if found.record.done and not found.record.events:
        raise InferenceError(
            "idempotency_conflict",
            "the request with this idempotency key was answered, and the answer was too large to "
            "be kept",
            param="Idempotency-Key",
        )
    return found.record if found.record.done else None
