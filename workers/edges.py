"""The edges that a worker answers to: a link to each, and which of them are gone for good (R1)."""

from __future__ import annotations

import asyncio
import logging

import msgspec

from broker import presence, subjects
from broker.bus import Bus, BusError
from broker.bus.mirror import Mirror
from broker.v1 import delivery_service_pb2
from workers.delivery import EdgeLink

_log = logging.getLogger(__name__)

# An edge is dialled so often in vain before its lease is looked for.
TRIES = 3
# How long that may take, and for how long what was read is taken for so.
_READ_S, _FRESH_S = 2.0, 1.0
# Addresses of which it is known that nobody was there.
_MOST = 1000


class Edges:
    """See the module."""

    def __init__(self, bus: Bus, token: str, hello: delivery_service_pb2.Hello) -> None:
        self._bus = bus
        self._token = token
        self._hello = hello
        self._links: dict[str, EdgeLink] = {}
        # Links in a row that reached nobody, by address.
        self._missed: dict[str, int] = {}
        # Where live edges are, by their leases, and when that was read.
        self._leased: frozenset[str] = frozenset()
        self._read_at = float("-inf")
        self._reading = asyncio.Lock()

    def link(self, address: str) -> EdgeLink:
        """The link to an edge: a new one where there is none that lives."""
        link = self._links.get(address)
        if link is None or not link.alive:
            if link is not None:
                self._ended(link)
            link = self._links[address] = EdgeLink(address, self._token, self._hello)
        return link

    async def gone(self, address: str) -> bool:
        """Whether nobody is to be expected there any more.

        That is so when no dial of several reached it and there is no lease of an edge there: how
        often its jobs were delivered says nothing, since providers' limits hand them back, too.
        """
        link = self._links.get(address)
        if link is not None and not link.alive:
            self._ended(link)
            del self._links[address]
        if self._missed.get(address, 0) < TRIES:
            return False
        async with self._reading:
            if asyncio.get_running_loop().time() - self._read_at > _FRESH_S:
                try:
                    async with asyncio.timeout(_READ_S):
                        await self._read()
                except (BusError, TimeoutError) as exc:
                    _log.info("the leases of edges could not be read: %s", exc)
                    return False
        return address not in self._leased

    def heartbeat(self, gauges: delivery_service_pb2.WorkerGauges) -> None:
        """Say how things are to all of them, and forget those that are gone."""
        for address, link in list(self._links.items()):
            if link.alive:
                link.heartbeat(gauges)
            else:
                self._ended(link)
                del self._links[address]

    async def close(self) -> None:
        """Send what is queued and hang up."""
        for link in list(self._links.values()):
            await link.close()

    def _ended(self, link: EdgeLink) -> None:
        if link.reached:
            self._missed.pop(link.address, None)
            return
        if len(self._missed) >= _MOST:
            self._missed.clear()
        self._missed[link.address] = self._missed.get(link.address, 0) + 1

    async def _read(self) -> None:
        began = asyncio.get_running_loop().time()
        leases = Mirror(self._bus, subjects.WORKERS, keys=subjects.EDGE_KEYS)
        try:
            await leases.start()
            self._leased = frozenset(
                presence.decode_edge(lease).address for lease in leases.entries.values()
            )
        except msgspec.DecodeError as exc:
            raise BusError(f"a lease of an edge: {exc}") from exc
        finally:
            await leases.close()
        self._read_at = began
