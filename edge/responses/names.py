"""Background responses that their callers named: one id to a name, whoever creates it how often.

The id is written down first. A record of that id and a job of it are made only once, so whatever an
edge left undone when it was lost, the next one that is asked does.
"""

from __future__ import annotations

import logging

from broker.bus import Bus, BusError
from broker.bus.once import KEPT_S, Found, OnceStore
from broker.errors import InferenceError
from broker.v1 import stored_pb2
from edge.claims import Named, require_same

_log = logging.getLogger(__name__)


class ResponseNames:
    """See the module. Raises `BusError` while NATS cannot be used."""

    def __init__(self, bus: Bus) -> None:
        self._store = OnceStore(bus)

    async def find(self, named: Named) -> Found:
        """What the name stands for. Raises `InferenceError` when that is another request."""
        found = await self._store.get(named.owner, named.name)
        if found.record is not None:
            require_same(found.record, named)
        return found

    async def take(self, named: Named, free: Found, response_id: str) -> Found | None:
        """Have a free name stand for a response; None when somebody else was first."""
        record = stored_pb2.Once(
            request_hash=named.digest, request_id=named.request_id, answer_id=response_id
        )
        revision = await self._store.put(named.owner, named.name, record, free.revision, KEPT_S)
        return Found(record, revision) if revision else None

    async def settle(self, named: Named, found: Found) -> None:
        """The response is queued: from now on, where there is none, it was deleted."""
        record = found.record
        if record is None or record.done:
            return
        record.done = True
        try:
            await self._store.put(named.owner, named.name, record, found.revision, KEPT_S)
        except BusError as exc:
            _log.warning("that %s is queued is not written down: %s", record.answer_id, exc)


def deleted(named: Named) -> InferenceError:
    """The response was there and is not any more."""
    message = "the response with this idempotency key was deleted; choose a new key for another one"
    return InferenceError("idempotency_conflict", message, param=named.param)
