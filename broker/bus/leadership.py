"""Leadership: of several processes one does a job; another takes over when it is gone.

A lease decides, not an election: whoever creates its key leads for as long as it renews it. For a
moment two may believe that they lead, so what a leader writes has to be fenced by what it read.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

from nats.errors import Error as NatsError
from nats.js.errors import Error as JetStreamError
from nats.js.errors import KeyWrongLastSequenceError

from broker.bus.connection import Bus, BusError
from broker.bus.ending import end
from broker.tasks import keep

_log = logging.getLogger(__name__)

TTL_S = 5
_RENEW_S = 1.5
_LOOK_S = 0.5


class Leadership:
    """Runs `lead()` while this process holds the lease `key` of `bucket`, and ends it after."""

    def __init__(
        self, bus: Bus, bucket: str, key: str, name: str, lead: Callable[[], Awaitable[None]]
    ) -> None:
        self._bus = bus
        self._bucket = bucket
        self._key = key
        self._name = name.encode()
        self._lead = lead
        self._revision = 0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Stand for it from now on."""
        self._task = keep(self._stand, f"leadership {self._key}")

    async def close(self) -> None:
        """Step down, so that another one can take over at once."""
        if self._task is not None:
            await end(self._task)

    async def _stand(self) -> None:
        while True:
            if await self._take():
                _log.info("this process leads: %s", self._key)
                await self._reign()
                _log.info("this process does not lead any more: %s", self._key)
            await asyncio.sleep(_LOOK_S)

    async def _take(self) -> bool:
        try:
            kv = await self._bus.kv(self._bucket)
            self._revision = await kv.create(self._key, self._name, msg_ttl=TTL_S)
        except KeyWrongLastSequenceError:
            return False
        except (NatsError, TimeoutError, BusError) as exc:
            _log.debug("leadership %s: %s", self._key, exc)
            return False
        return True

    async def _reign(self) -> None:
        work = asyncio.ensure_future(self._lead())
        loop = asyncio.get_running_loop()
        held_until = loop.time() + TTL_S
        try:
            while loop.time() < held_until:
                await asyncio.wait((work,), timeout=_RENEW_S)
                if work.done():
                    if (failure := work.exception()) is not None:
                        _log.error("leading %s failed", self._key, exc_info=failure)
                    break
                asked = loop.time()
                renewed = await self._renew()
                if renewed is False:
                    return
                if renewed:
                    held_until = asked + TTL_S
        finally:
            await end(work)
            await self._release()

    async def _renew(self) -> bool | None:
        """False: it is another's; None: NATS does not say."""
        headers = {
            "Nats-TTL": str(TTL_S),
            "Nats-Expected-Last-Subject-Sequence": str(self._revision),
        }
        subject = f"$KV.{self._bucket}.{self._key}"
        try:
            ack = await self._bus.js.publish(subject, self._name, headers=headers, timeout=1)
        except KeyWrongLastSequenceError:
            return False
        except JetStreamError as exc:
            _log.debug("leadership %s not renewed: %s", self._key, exc)
            return False if "wrong last sequence" in str(exc) else None
        except (NatsError, TimeoutError) as exc:
            _log.debug("leadership %s not renewed: %s", self._key, exc)
            return None
        self._revision = ack.seq
        return True

    async def _release(self) -> None:
        # Without a server it ends by itself.
        with contextlib.suppress(NatsError, TimeoutError, BusError):
            async with asyncio.timeout(1):
                kv = await self._bus.kv(self._bucket)
                await kv.delete(self._key, last=self._revision)
