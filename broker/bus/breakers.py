"""Open breakers, shared: a key per provider and model that vanishes when the rest is over."""

from __future__ import annotations

import math
from collections.abc import Callable

import msgspec
from nats.errors import Error as NatsError
from nats.js.errors import Error as JetStreamError

from broker import subjects
from broker.bus.connection import Bus
from broker.bus.mirror import Mirror


class Open(msgspec.Struct, frozen=True):
    """`rest_s` from when it was written, 0 = closed; `by` is the process that wrote it."""

    provider: str
    model: str
    rest_s: float
    by: str


_encode = msgspec.json.encode
_decode = msgspec.json.Decoder(Open).decode

# (provider, model), and seconds that it rests from now on; 0 = it is closed again.
Told = Callable[[tuple[str, str], float], None]


class SharedBreakers:
    """Writes this process's and tells of the others'. Both are best effort: a breaker is a hint."""

    def __init__(self, bus: Bus, name: str, told: Told) -> None:
        self._bus = bus
        self._name = name
        self._told = told
        # What others have open, by key.
        self._places: dict[str, tuple[str, str]] = {}
        self._mirror = Mirror(bus, subjects.BREAKER, self._changed)

    async def start(self) -> None:
        """Return once those that are open were read."""
        await self._mirror.start()

    async def close(self) -> None:
        """Stop following."""
        await self._mirror.close()

    async def write(self, place: tuple[str, str], rest_s: float) -> None:
        """Tell the others that this one is open for `rest_s`, or closed (0)."""
        provider, model = place
        value = Open(provider, model, rest_s, self._name)
        subject = f"$KV.{subjects.BREAKER}.{subjects.breaker_key(provider, model)}"
        headers = {"Nats-TTL": str(max(1, math.ceil(rest_s)))}
        try:
            await self._bus.js.publish(subject, _encode(value), headers=headers, timeout=2)
        except (NatsError, JetStreamError, TimeoutError):
            return

    def _changed(self, key: str, value: bytes | None) -> None:
        place = self._places.pop(key, None)
        if value is None:  # it ran out
            if place is not None:
                self._told(place, 0.0)
            return
        try:
            told = _decode(value)
        except msgspec.DecodeError:
            return  # a newer version's
        if told.by != self._name:
            place = self._places[key] = told.provider, told.model
            self._told(place, told.rest_s)
