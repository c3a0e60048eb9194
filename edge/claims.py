"""Claims on the names that callers give requests: one edge runs a request, others wait for it.

A name is claimed before its request is accepted. The same request with the same name waits while
it runs, on whichever edge, and is given its answer afterwards; one that failed may be tried again,
and that of a dead edge is taken over.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from broker.bus import Bus, BusError
from broker.bus.once import KEPT_S, Found, OnceStore
from broker.errors import InferenceError
from broker.v1 import event_pb2, generation_pb2, stored_pb2

_log = logging.getLogger(__name__)

# A claim outlives its request by this much, then it is nobody's.
_SPARE_S = 60.0
# How often a running request is looked after, at first and at most.
_LOOK_S = 0.02
_MOST_LOOK_S = 0.25
# A claim that cannot be given up is tried again this often, and this many times.
_AGAIN_S = 2.0
_TRIES = 30


@dataclass(frozen=True, slots=True)
class Named:
    """A request with the name that its caller gave it; names are of one owner."""

    owner: str
    name: str
    request_id: str
    digest: bytes
    timeout_s: float


def digest(request: generation_pb2.Request, attachments: Sequence[bytes | memoryview]) -> bytes:
    """What tells a request from another one: all of it, its files too."""
    total = hashlib.sha256(request.SerializeToString(deterministic=True))
    for attachment in attachments:
        total.update(hashlib.sha256(attachment).digest())
    return total.digest()


class Claim:
    """A name that this edge runs a request for."""

    def __init__(
        self, claims: Claims, named: Named, record: stored_pb2.Once, revision: int
    ) -> None:
        self._claims = claims
        self._named = named
        self._record = record
        self._revision = revision
        self._over = False

    async def answered(
        self, answer_id: str, created: int, events: Sequence[event_pb2.Event]
    ) -> None:
        """Keep the answer. That it cannot be kept is no reason to keep it from the caller."""
        record = self._record
        record.done, record.answer_id, record.created = True, answer_id, created
        record.events.extend(events)
        named = self._named
        try:
            await self._claims.store.put(named.owner, named.name, record, self._revision, KEPT_S)
            self._over = True
        except BusError as exc:
            _log.warning("the answer of %s is not kept: %s", record.request_id, exc)

    def release(self) -> None:
        """Let others run it, unless it was answered."""
        if not self._over:
            self._over = True
            self._claims.release(self._named, self._revision)


class Claims:
    """See the module. `alive` says whether an edge of this name is there."""

    def __init__(self, bus: Bus, edge: str, alive: Callable[[str], Awaitable[bool]]) -> None:
        self.store = OnceStore(bus)
        self._edge = edge
        self._alive = alive
        self._releasing: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Give up what is still claimed, as far as that goes quickly."""
        if self._releasing:
            await asyncio.wait(self._releasing, timeout=1)
        for task in self._releasing:
            task.cancel()

    async def take(self, named: Named) -> Claim | stored_pb2.Once:
        """The claim, or the record of the answer that there is.

        Raises `InferenceError`: idempotency_conflict when the name is another request's, deadline
        when that is not answered in time, broker_unavailable.
        """
        try:
            async with asyncio.timeout(named.timeout_s):
                return await self._take(named)
        except TimeoutError:
            message = "the request that runs with this idempotency key was not answered in time"
            raise InferenceError("deadline", message) from None
        except BusError as exc:
            raise InferenceError("broker_unavailable", str(exc), retry_after=1) from exc

    async def _take(self, named: Named) -> Claim | stored_pb2.Once:
        record = stored_pb2.Once(
            request_hash=named.digest, request_id=named.request_id, edge=self._edge
        )
        ttl_s = named.timeout_s + _SPARE_S
        found = Found(None, 0)
        pause_s = _LOOK_S
        while True:
            there = found.record
            if there is not None and (answer := _answer(there, named)):
                return answer
            if there is None or not await self._alive(there.edge):
                revision = await self.store.put(
                    named.owner, named.name, record, found.revision, ttl_s
                )
                if revision:
                    return Claim(self, named, record, revision)
            else:
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, _MOST_LOOK_S)
            found = await self.store.get(named.owner, named.name)

    def release(self, named: Named, revision: int) -> None:
        """Give a claim up in the background."""
        task = asyncio.create_task(self._release(named, revision), name="release a claim")
        self._releasing.add(task)
        task.add_done_callback(self._releasing.discard)

    async def _release(self, named: Named, revision: int) -> None:
        for _ in range(_TRIES):
            try:
                await self.store.forget(named.owner, named.name, revision)
            except BusError as exc:
                _log.warning("an idempotency key stays claimed: %s; trying again", exc)
                await asyncio.sleep(_AGAIN_S)
            else:
                return


def _answer(there: stored_pb2.Once, named: Named) -> stored_pb2.Once | None:
    """The record, if its answer is there; raises `InferenceError` where there is none to be had."""
    if there.request_hash != named.digest:
        raise InferenceError(
            "idempotency_conflict",
            "this idempotency key was used for another request; choose a new one for each request",
            param="Idempotency-Key",
        )
    if there.done and not there.events:
        raise InferenceError(
            "idempotency_conflict",
            "the request with this idempotency key was answered, and the answer was too large to "
            "be kept",
            param="Idempotency-Key",
        )
    return there if there.done else None
