"""Claims on the names that callers give requests: one edge runs a request, others read along.

A name is claimed before its request is accepted. The same request with the same name joins it while
it runs, on whichever edge, and is given its answer afterwards; one that failed may be tried again,
and that of a dead edge is taken over.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

from broker.bus import Bus, BusError
from broker.bus.once import KEPT_S, Found, OnceStore
from broker.errors import InferenceError
from broker.tasks import Tasks
from broker.v1 import event_pb2, generation_pb2, stored_pb2
from edge.store import told

_T = TypeVar("_T")

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
    # Where the name stands in the request.
    param: str = "Idempotency-Key"


class Standing(Enum):
    """Of a request that cannot be joined at an edge."""

    # It runs there, or is about to.
    CLAIMED = "claimed"
    # The edge has nothing to do with it.
    UNKNOWN = "unknown"
    # It runs there, and its beginning is gone.
    TOO_LARGE = "too large"


def digest(
    asked_for: str, request: generation_pb2.Request, attachments: Sequence[bytes | memoryview]
) -> bytes:
    """What tells a request from another one: what is asked for, all of it, and its files."""
    total = hashlib.sha256(asked_for.encode() + b"\0")
    total.update(request.SerializeToString(deterministic=True))
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

    @property
    def request_hash(self) -> bytes:
        """Of the request that is run."""
        return self._named.digest

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
        except BusError as exc:
            _log.warning("the answer of %s is not kept: %s", record.request_id, exc)
        else:
            self._over = True
            self._claims.held.discard(record.request_id)

    def release(self) -> None:
        """Let others run it, unless it was answered."""
        if not self._over:
            self._over = True
            self._claims.release(self._named, self._revision)


class Claims:
    """See the module. `alive` says whether an edge of this name is there."""

    def __init__(self, bus: Bus, edge: str, alive: Callable[[str], Awaitable[bool]]) -> None:
        self.store = OnceStore(bus)
        self.edge = edge
        # What this edge runs, or is about to, by the request's id: until others can read in the
        # store what became of it.
        self.held: set[str] = set()
        self._alive = alive
        self._tasks = Tasks()

    async def close(self) -> None:
        """Stop giving up what is still claimed."""
        await self._tasks.close(wait_s=1)

    async def take(
        self, named: Named, join: Callable[[stored_pb2.Once], Awaitable[_T | Standing]]
    ) -> Claim | stored_pb2.Once | _T:
        """The claim, or the record of the answer that there is, or what joining it gives.

        Raises `InferenceError`: idempotency_conflict when the name is another request's,
        broker_unavailable.
        """
        with told():
            return await self._take(named, join)

    async def _take(
        self, named: Named, join: Callable[[stored_pb2.Once], Awaitable[_T | Standing]]
    ) -> Claim | stored_pb2.Once | _T:
        found = Found(None, 0)
        abandoned = False
        pause_s = _LOOK_S
        while True:
            there = found.record
            if there is not None and (answer := _answer(there, named)):
                return answer
            if there is None or abandoned or not await self._alive(there.edge):
                if claim := await self._claim(named, found.revision):
                    return claim
                standing: _T | Standing = Standing.CLAIMED
            else:
                standing = await join(there)
                if standing is Standing.TOO_LARGE:
                    raise _not_kept("is being answered", named)
                if not isinstance(standing, Standing):
                    return standing
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, _MOST_LOOK_S)
            before, found = found, await self.store.get(named.owner, named.name)
            # Its edge has nothing to do with it, and has not said what became of it either.
            abandoned = standing is Standing.UNKNOWN and found.revision == before.revision

    async def _claim(self, named: Named, revision: int) -> Claim | None:
        """Write the claim over what was read; None when that was changed since."""
        record = stored_pb2.Once(
            request_hash=named.digest, request_id=named.request_id, edge=self.edge
        )
        ttl_s = named.timeout_s + _SPARE_S
        self.held.add(named.request_id)
        writing = asyncio.ensure_future(
            self.store.put(named.owner, named.name, record, revision, ttl_s)
        )
        written = 0
        try:
            written = await asyncio.shield(writing)
        except asyncio.CancelledError:
            self._tasks.spawn(self._undo(named, writing), "undo a claim")
            raise
        finally:
            if not written and writing.done():
                self.held.discard(named.request_id)
        return Claim(self, named, record, written) if written else None

    async def _undo(self, named: Named, writing: asyncio.Future[int]) -> None:
        """Whoever claimed it left before that was written."""
        try:
            if written := await writing:
                await self._release(named, written)
        except BusError as exc:
            _log.warning("%s", exc)
        finally:
            self.held.discard(named.request_id)

    def release(self, named: Named, revision: int) -> None:
        """Give a claim up in the background."""
        self._tasks.spawn(self._release(named, revision), "release a claim")

    async def _release(self, named: Named, revision: int) -> None:
        # From here on whoever asks this edge may take it over.
        self.held.discard(named.request_id)
        for _ in range(_TRIES):
            try:
                await self.store.forget(named.owner, named.name, revision)
            except BusError as exc:
                _log.warning("an idempotency key stays claimed: %s; trying again", exc)
                await asyncio.sleep(_AGAIN_S)
            else:
                return


def require_same(there: stored_pb2.Once, named: Named) -> None:
    """Refuse a name that is another request's. Raises `InferenceError` idempotency_conflict."""
    if there.request_hash != named.digest:
        raise InferenceError(
            "idempotency_conflict",
            "this idempotency key was used for another request; choose a new one for each request",
            param=named.param,
        )


def _answer(there: stored_pb2.Once, named: Named) -> stored_pb2.Once | None:
    """The record, if its answer is there; raises `InferenceError` where there is none to be had."""
    require_same(there, named)
    if there.done and not there.events:
        raise _not_kept("was answered", named)
    return there if there.done else None


def _not_kept(what: str, named: Named) -> InferenceError:
    message = (
        f"the request with this idempotency key {what}, and the answer is too large to be kept"
    )
    return InferenceError("answer_not_kept", message, param=named.param)
