"""A lease: a key that vanishes by itself when its holder stops renewing it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from nats.errors import Error as NatsError
from nats.js.errors import Error as JetStreamError

from broker.bus.connection import Bus
from broker.bus.ending import end
from broker.tasks import keep

_log = logging.getLogger(__name__)

TTL_S = 10
RENEW_S = 3.0
_RELEASE_S = 1.0


class Lease:
    """Keeps `key` alive with the value that `value()` gives at each renewal.

    Buckets cannot renew a TTL through their own API, so renewals are compare-and-set publishes.
    """

    def __init__(self, bus: Bus, bucket: str, key: str, value: Callable[[], bytes]) -> None:
        self._bus = bus
        self._subject = f"$KV.{bucket}.{key}"
        self._bucket = bucket
        self._key = key
        self._value = value
        self._revision: int | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Take the lease and keep it."""
        await self._bus.kv(self._bucket)
        await self.renew()
        self._task = keep(self._keep, f"lease {self._key}")

    async def renew(self) -> None:
        """Write the present value now."""
        headers = {"Nats-TTL": str(TTL_S)}
        if self._revision is not None:
            headers["Nats-Expected-Last-Subject-Sequence"] = str(self._revision)
        try:
            ack = await self._bus.js.publish(
                self._subject, self._value(), headers=headers, timeout=2
            )
            self._revision = ack.seq
        except JetStreamError as exc:
            # It expired, or a restarted server has another history: take it afresh.
            _log.debug("lease %s: %s", self._key, exc)
            self._revision = None
        except (NatsError, TimeoutError) as exc:
            _log.debug("lease %s not renewed: %s", self._key, exc)

    async def release(self) -> None:
        """Give the lease up now."""
        if self._task is not None:
            await end(self._task)
        # Without a server it ends by itself.
        with contextlib.suppress(NatsError, TimeoutError):
            async with asyncio.timeout(_RELEASE_S):
                await (await self._bus.kv(self._bucket)).delete(self._key)

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(RENEW_S)
            await self.renew()
            if self._revision is None:
                await self.renew()
