"""Capacity on the bus: what workers report to the leader, what it allows, and what it knows.

Reports are plain messages: what is lost is made up for a second later. Allowances are in the bucket
`capacity`, so that they outlive the leader, and whoever begins finds them. How the places stand
nobody is told who does not ask.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable

import msgspec
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from broker import subjects
from broker.bus.connection import Bus
from broker.bus.ending import leaving
from broker.bus.mirror import Mirror
from broker.bus.steady import mapped
from broker.capacity import FORGET_S, Allowance, Report
from broker.standing import Standing, allowed

_log = logging.getLogger(__name__)

# What no leader writes again goes by itself.
ALLOWANCE_TTL_S = math.ceil(FORGET_S * 1.5)
_WAIT_S = 1.0


_encode = msgspec.json.encode
_decode_report = msgspec.json.Decoder(Report).decode
decode_allowance = msgspec.json.Decoder(Allowance).decode
_decode_standings = msgspec.json.Decoder(list[Standing]).decode


class Allowances:
    """A mirror of what is allowed, of one provider or of all."""

    def __init__(
        self,
        bus: Bus,
        provider: str = "",
        changed: Callable[[str, Allowance | None], None] = lambda _key, _allowance: None,
    ) -> None:
        self._changed = changed
        keys = subjects.allowance_keys(provider) if provider else "p.>"
        self._mirror = Mirror(bus, subjects.CAPACITY, self._took, keys=keys)

    async def start(self) -> None:
        """Return once what is allowed now was read."""
        await self._mirror.start()

    async def close(self) -> None:
        """Stop following."""
        await self._mirror.close()

    def all(self) -> list[Allowance]:
        """All that can be read."""
        read = (self._read(key, value) for key, value in self._mirror.entries.items())
        return [allowance for allowance in read if allowance is not None]

    def _took(self, key: str, value: bytes | None) -> None:
        if value is None:
            self._changed(key, None)
        elif (allowance := self._read(key, value)) is not None:
            self._changed(key, allowance)

    def _read(self, key: str, value: bytes) -> Allowance | None:
        try:
            return decode_allowance(value)
        except msgspec.DecodeError as exc:
            _log.debug("what is allowed at %s cannot be read: %s", key, exc)
            return None  # a newer version's


async def read_allowances(bus: Bus) -> list[Allowance]:
    """All that is allowed now. Raises `BusError`."""
    allowances = Allowances(bus)
    with mapped("read what is allowed"):
        try:
            await allowances.start()
            return allowances.all()
        finally:
            await allowances.close()


async def read_standings(bus: Bus) -> list[Standing]:
    """How all places stand: by the leader, or, while nobody leads, what was allowed last.

    Raises `BusError`.
    """
    try:
        answer = await bus.nc.request(subjects.STANDINGS, timeout=_WAIT_S)
        return _decode_standings(answer.data)
    except (NatsError, TimeoutError, msgspec.DecodeError):
        return [allowed(told) for told in await read_allowances(bus)]


async def show_standings(
    bus: Bus, standings: Callable[[], list[Standing] | None]
) -> Callable[[], Awaitable[None]]:
    """Answer those who ask how the places stand, if this process knows. Returns how to end it."""

    async def asked(msg: Msg) -> None:
        found = standings()
        if found is None:
            return
        known = len(found)
        while len(data := _encode(found)) > bus.nc.max_payload:
            found = found[: len(found) // 2]
        if len(found) < known:
            _log.info("of %d places %d are told: no message holds more", known, len(found))
        bus.post(msg.reply, data)

    subscription = await bus.nc.subscribe(subjects.STANDINGS, cb=asked)
    return leaving(subscription)


async def allow(bus: Bus, allowance: Allowance) -> bool:
    """Have the workers know; False when that failed."""
    key = subjects.allowance_key(*allowance.place)
    headers = {"Nats-TTL": str(ALLOWANCE_TTL_S)}
    try:
        await bus.js.publish(
            f"$KV.{subjects.CAPACITY}.{key}", _encode(allowance), headers=headers, timeout=_WAIT_S
        )
    except (NatsError, TimeoutError) as exc:
        _log.warning("workers were not told of their capacity: %s", exc)
        return False
    return True


def tell(bus: Bus, report: Report) -> None:
    """Send a report to whoever leads, if the connection is in good order."""
    bus.post(subjects.capacity_report(report.provider), _encode(report))


async def hear(bus: Bus, take: Callable[[Report], None]) -> Callable[[], Awaitable[None]]:
    """Call `take` with each report. Returns how to end it."""

    async def heard(msg: Msg) -> None:
        try:
            report = _decode_report(msg.data)
        except msgspec.DecodeError as exc:
            _log.debug("a report to %s cannot be read: %s", msg.subject, exc)
        else:
            take(report)

    subscription = await bus.nc.subscribe(subjects.CAPACITY_REPORTS, cb=heard)
    return leaving(subscription)
