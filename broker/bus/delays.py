"""News of why lines of batches have to wait, from workers to whoever runs the batches.

It is for people to read, and nothing depends on it: what is lost on the way is told again.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable

from google.protobuf.message import DecodeError
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from broker import subjects
from broker.bus.connection import Bus
from broker.bus.ending import leaving
from broker.bus.steady import mapped
from broker.errors import InferenceError
from broker.v1 import batch_pb2, job_pb2

_log = logging.getLogger(__name__)

_EVERY_S = 2.0
_MOST_TOLD = 1000
# Characters of what a provider said.
_LONGEST = 300


class Delays:
    """Tells why lines wait: what holds many of them up is told once in a few seconds."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._told: dict[tuple[str, str], float] = {}

    async def tell(self, batch_id: str, route: job_pb2.Route, why: InferenceError) -> None:
        """Tell why a line waits that was to be answered at `route`."""
        now, place = asyncio.get_running_loop().time(), (batch_id, why.reason)
        if now - self._told.get(place, -math.inf) < _EVERY_S:
            return
        if len(self._told) >= _MOST_TOLD:
            self._told.clear()
        self._told[place] = now
        delay = batch_pb2.BatchDelay(
            provider=route.provider,
            model=route.model,
            code=why.reason,
            message=why.message[:_LONGEST],
        )
        try:
            await self._bus.nc.publish(subjects.delay(batch_id), delay.SerializeToString())
        except NatsError as exc:
            _log.info("a delay was not told: %s", exc)


async def hear(
    bus: Bus, heard: Callable[[str, batch_pb2.BatchDelay], None]
) -> Callable[[], Awaitable[None]]:
    """Call `heard(batch token, delay)` for each. Returns how to end it. Raises `BusError`."""

    async def came(msg: Msg) -> None:
        try:
            heard(msg.subject.rpartition(".")[2], batch_pb2.BatchDelay.FromString(msg.data))
        except DecodeError:
            _log.warning("what is no delay was told as one")

    with mapped("hear of delays"):
        subscription = await bus.nc.subscribe(subjects.delay("x")[:-1] + "*", cb=came)
    return leaving(subscription)
