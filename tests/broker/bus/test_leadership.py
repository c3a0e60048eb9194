"""Leadership: one leads at a time, and another one takes over when it is gone."""

from __future__ import annotations

import asyncio

from broker import subjects
from broker.bus import Bus
from broker.bus.leadership import TTL_S, Leadership
from tests.broker.bus.server import NatsServer, Proxy, until

PATIENCE_S = 5.0 * TTL_S


def candidate(bus: Bus, name: str, leads: list[str]) -> Leadership:
    async def lead() -> None:
        leads.append(name)
        try:
            await asyncio.Event().wait()
        finally:
            leads.remove(name)

    return Leadership(bus, subjects.CAPACITY, "leader.test", name, lead)


async def test_who_steps_down_is_followed_at_once(bus: Bus) -> None:
    leads: list[str] = []
    first, second = candidate(bus, "a", leads), candidate(bus, "b", leads)
    first.start()
    await until(lambda: leads == ["a"], "the first leads")
    second.start()
    await first.close()
    await until(lambda: leads == ["b"], "the second leads", TTL_S)
    await second.close()
    assert not leads


async def test_who_cannot_reach_the_server_leads_no_longer(
    bus: Bus, far: Bus, proxy: Proxy
) -> None:
    leads: list[str] = []
    cut_off, other = candidate(far, "cut off", leads), candidate(bus, "other", leads)
    cut_off.start()
    await until(lambda: leads == ["cut off"], "the first leads")
    other.start()
    proxy.stall()
    await until(lambda: "other" in leads, "the other one leads", PATIENCE_S)
    await until(lambda: leads == ["other"], "the first has stopped", PATIENCE_S)
    proxy.flow()
    await other.close()
    await until(lambda: leads == ["cut off"], "it leads again", PATIENCE_S)
    await cut_off.close()


async def test_somebody_leads_again_after_the_server_was_killed(nats: NatsServer, bus: Bus) -> None:
    leads: list[str] = []
    only = candidate(bus, "a", leads)
    only.start()
    await until(lambda: leads == ["a"], "it leads")
    nats.kill()
    await nats.start()
    await until(lambda: bus.connected, "it is connected")
    await until(lambda: leads == ["a"], "it leads again", PATIENCE_S)
    await only.close()
