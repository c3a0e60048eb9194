"""What time it is at the server, which decides when delayed jobs are due."""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import datetime

import msgspec
from nats.errors import Error as NatsError

from broker.bus.connection import Bus

_log = logging.getLogger(__name__)

# A stream that every deployment has: what is told of it says when.
_ASKED = "$JS.API.STREAM.INFO.SCHED"
_TIMEOUT_S = 2.0
# Clocks are compared again after this long, or sooner where it failed.
_HOLDS_S = 600.0
_AGAIN_S = 30.0
# Less is not told apart from the way of a message; more than the other is worth a warning.
_LEAST_S = 0.25
WORTH_TELLING_S = 2.0


class _Told(msgspec.Struct):
    ts: str = ""


class Clock:
    """The server's clock, by this machine's and how far that is ahead."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._ahead_s = 0.0
        self._known_until = 0.0

    async def now(self) -> float:
        """Unix seconds; by this machine's clock while the server's is not known."""
        return _here() - await self.ahead_s()

    async def ahead_s(self) -> float:
        """Seconds that this machine's clock is ahead; 0 = it is right, or nobody knows."""
        loop = asyncio.get_running_loop()
        if loop.time() < self._known_until:
            return self._ahead_s
        began = _here()
        try:
            answer = await self._bus.nc.request(_ASKED, b"", timeout=_TIMEOUT_S)
            told = msgspec.json.decode(answer.data, type=_Told).ts
            there = datetime.fromisoformat(told).timestamp()
        except (NatsError, TimeoutError, OSError, ValueError, msgspec.DecodeError):
            self._known_until = loop.time() + _AGAIN_S
            return self._ahead_s
        took = _here() - began
        ahead = began + took / 2 - there
        self._known_until = loop.time() + _HOLDS_S
        self._ahead_s = ahead if abs(ahead) > max(_LEAST_S, took) else 0.0
        if abs(self._ahead_s) > WORTH_TELLING_S:
            _log.warning("the clock here is %+.1f s off the one of NATS: set it right", ahead)
        return self._ahead_s


def _here() -> float:
    """Unix seconds by this machine's clock."""
    return time.time_ns() / 1e9
