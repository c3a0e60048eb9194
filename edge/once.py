"""Requests that run once, by the names that their callers gave them.

The first with a name runs. Those that come while it runs read its answer, at whatever edge they
are; those that come later are given what was kept of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from broker.errors import InferenceError
from broker.v1 import event_pb2, stored_pb2
from edge.claims import Claim, Claims, Named, Standing
from edge.run import Run
from edge.seams import ExchangeLike

# Ends of a run that speak of its first caller alone: who reads along, and was told nothing yet,
# has it run again.
_ANOTHERS = frozenset({"client_gone", "deadline", "draining", "edge_lost"})
# The code of what was cancelled by its name, which is meant for all who read it.
_CANCELLED = "cancelled"


class Joined(ExchangeLike, Protocol):
    """An exchange that may be another request's."""

    @property
    def replayed(self) -> bool: ...


class Attached(Joined, Protocol):
    """The answer of a request that runs elsewhere."""

    async def begin(self, deadline: float) -> None:
        """Wait for its first events; they end by `deadline`. Raises `InferenceError`."""


class Elsewhere(Protocol):
    """The other edges."""

    @property
    def attached(self) -> int:
        """How many answers are read there now."""

    async def join(self, record: stored_pb2.Once) -> Attached | Standing:
        """The answer of a request that another edge runs."""


class Replayed:
    """An answer that was given before, as an exchange."""

    replayed = True

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

    def divert(self, take: Callable[[Sequence[event_pb2.Event]], bool]) -> None:
        """Everything came with `next`."""

    def close(self) -> None:
        """Nothing runs."""


class Once:
    """See the module."""

    def __init__(self, claims: Claims, elsewhere: Elsewhere) -> None:
        self._claims = claims
        self._elsewhere = elsewhere
        self._runs: dict[str, Run] = {}
        self._loop = asyncio.get_running_loop()

    async def submit(self, named: Named, run: Callable[[float], Awaitable[ExchangeLike]]) -> Joined:
        """The exchange of a request, or the answer of the one that has its name.

        `run` accepts it, with the seconds that it may take. Raises `InferenceError`.
        """
        deadline = self._loop.time() + named.timeout_s
        try:
            async with asyncio.timeout_at(deadline):
                found = await self._find(named, deadline)
        except TimeoutError:
            message = "the request that runs with this idempotency key was not answered in time"
            raise InferenceError("deadline", message) from None
        if not isinstance(found, Claim):
            return found
        try:
            inner = await run(max(0.001, deadline - self._loop.time()))
        except BaseException:
            found.release()
            raise
        started = Run(inner, found, self._runs)
        first = started.join(replayed=False)
        assert first is not None  # noqa: S101  # nothing was read of it yet
        return first

    @property
    def running(self) -> int:
        """Requests with a name that run here."""
        return len(self._runs)

    @property
    def attached(self) -> int:
        """Requests that read along at other edges."""
        return self._elsewhere.attached

    def standing(self, request_id: str) -> Run | Standing:
        """What this edge knows of a request."""
        if request_id not in self._claims.held:
            return Standing.UNKNOWN
        return self._runs.get(request_id, Standing.CLAIMED)

    async def _find(self, named: Named, deadline: float) -> Claim | Joined:
        while True:
            found = await self._claims.take(named, self._join)
            if isinstance(found, Claim):
                return found
            if isinstance(found, stored_pb2.Once):
                return Replayed(found)
            try:
                await found.begin(deadline)
            except BaseException as exc:
                found.close()
                if not (isinstance(exc, InferenceError) and _of_another(exc)):
                    raise
            else:
                return found

    async def _join(self, record: stored_pb2.Once) -> Attached | Standing:
        if record.edge != self._claims.edge:
            return await self._elsewhere.join(record)
        run = self.standing(record.request_id)
        if isinstance(run, Run):
            return run.join() or (Standing.TOO_LARGE if run.too_large else Standing.CLAIMED)
        return run


def _of_another(error: InferenceError) -> bool:
    return error.reason in _ANOTHERS and error.code != _CANCELLED
