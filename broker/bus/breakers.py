"""Open breakers, shared: a key per provider, model and credential, and one for each probe."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

import msgspec
from nats.errors import Error as NatsError
from nats.js.errors import APIError, KeyDeletedError, KeyNotFoundError

from broker import subjects
from broker.bus.connection import Bus, BusError
from broker.bus.mirror import Mirror
from broker.bus.queue import WRONG_LAST
from broker.routing.breakers import LONGEST_S, Entry, Opened

_log = logging.getLogger(__name__)

# What is half-open stays known to newcomers for as long.
_KNOWN_S = 2 * LONGEST_S


class Open(msgspec.Struct, frozen=True, omit_defaults=True):
    """`rest_s` from when it was written, 0 = closed; `by` is the process that wrote it.

    `key` is the fingerprint of a credential, empty for all of them.
    """

    provider: str
    model: str
    rest_s: float
    by: str
    key: str = ""
    interval_s: float = 0.0


_encode = msgspec.json.encode
_decode = msgspec.json.Decoder(Open).decode

# What opened, with the seconds that it rests from now on; 0 = it is closed again.
Told = Callable[[Opened], None]


class SharedBreakers:
    """Writes this process's and tells of the others'. Both are best effort: a breaker is a hint."""

    def __init__(self, bus: Bus, name: str, told: Told) -> None:
        self._bus = bus
        self._name = name
        self._told = told
        self._mirror = Mirror(bus, subjects.BREAKER, self._changed)

    async def start(self) -> None:
        """Return once those that are open were read."""
        await self._mirror.start()

    async def close(self) -> None:
        """Stop following."""
        await self._mirror.close()

    async def write(self, entry: Entry, rest_s: float, interval_s: float = 0.0) -> None:
        """Tell the others that this one is open for `rest_s`, or closed (0)."""
        provider, model, key = entry
        value = Open(provider, model, rest_s, self._name, key, interval_s)
        subject = f"$KV.{subjects.BREAKER}.{subjects.breaker_key(*entry)}"
        kept = rest_s + _KNOWN_S if rest_s else 1
        headers = {"Nats-TTL": str(math.ceil(kept))}
        try:
            await self._bus.js.publish(subject, _encode(value), headers=headers, timeout=2)
        except (NatsError, TimeoutError) as exc:
            _log.debug("others were not told of the breaker %s: %s", subject, exc)

    async def claim(self, provider: str, model: str, interval_s: float) -> bool:
        """Whether the next probe of the fleet is this process's; nobody else's for `interval_s`.

        Without a server each process goes by itself.
        """
        key = subjects.probe_key(provider, model)
        try:
            bucket = await self._bus.kv(subjects.BREAKER)
            try:
                entry = await bucket.get(key)
                if entry.value:
                    return False
                revision = entry.revision or 0
            except KeyDeletedError as exc:
                revision = (exc.entry.revision or 0) if exc.entry else 0
            except KeyNotFoundError:
                revision = 0
            headers = {
                "Nats-Expected-Last-Subject-Sequence": str(revision),
                "Nats-TTL": str(max(1, int(interval_s))),
            }
            subject = f"$KV.{subjects.BREAKER}.{key}"
            await self._bus.js.publish(subject, self._name.encode(), headers=headers, timeout=2)
        except APIError as exc:
            return exc.err_code not in WRONG_LAST  # then somebody else was quicker
        except (NatsError, TimeoutError, BusError):
            return True
        return True

    def _changed(self, key: str, value: bytes | None) -> None:
        # One that ran out was half-open for a while: whoever knew of it goes by its own clock.
        if value is None or key.startswith(subjects.PROBES):
            return
        try:
            told = _decode(value)
        except msgspec.DecodeError:
            return  # a newer version's
        if told.by != self._name:
            entry = told.provider, told.model, told.key
            self._told(Opened(entry, told.rest_s, told.interval_s))
