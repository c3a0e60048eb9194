"""Breakers of several processes: what one learns, and one probe for all of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from broker import subjects
from broker.bus.breakers import SharedBreakers
from broker.bus.layout import ensure_layout
from broker.errors import InferenceError
from broker.fleet import FleetView
from broker.health import Health
from broker.routing import Target
from broker.routing.breakers import FAILURES, Opened
from tests.broker.bus.server import NatsServer, until

TARGET = Target("openai", "main", "gpt-4o", listed=True)
BROKEN = InferenceError("upstream_error", "no")


class Edge:
    """One process's view of how providers do."""

    def __init__(self, health: Health) -> None:
        self.health = health
        self.sent = 0

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def resting(self) -> bool:
        return self.health.state("openai", "gpt-4o").resting

    def request(self) -> bool:
        """A request for the model; returns whether it goes there."""
        if self.resting():
            return False
        self.health.chosen(TARGET)
        self.sent += 1
        return True

    def fails(self) -> None:
        self.health.failed(TARGET, BROKEN, self.now())


@pytest.fixture
async def edges(nats: NatsServer) -> AsyncIterator[list[Edge]]:
    async with AsyncExitStack() as stack:
        buses = [await nats.bus() for _ in range(3)]
        await ensure_layout(buses[0], 1)
        edges = []
        for number, bus in enumerate(buses):
            stack.push_async_callback(bus.close)
            view = FleetView(bus, lambda: None)
            health = Health(bus, view, f"edge{number}", lambda _: 0)
            await health.start()
            stack.push_async_callback(health.close)
            edges.append(Edge(health))
        yield edges


async def test_the_fleet_sends_one_probe_an_interval_and_the_doubled_rest_survives(
    edges: list[Edge],
) -> None:
    for _ in range(FAILURES):
        edges[0].fails()
    await until(lambda: all(edge.resting() for edge in edges), "all know of it")
    probes: list[tuple[float, Edge]] = []
    ends = edges[0].now() + 8
    while edges[0].now() < ends:
        for edge in edges:
            if edge.request():
                probes.append((edge.now(), edge))
                await asyncio.sleep(0.05)
                edge.fails()
        await asyncio.sleep(0.02)
    # After 2 s, and 4 s later: nobody floods it when the shared record of a breaker is over.
    assert len(probes) == 2, probes
    assert probes[1][0] - probes[0][0] > 3.9


async def test_a_probe_that_works_closes_the_breaker_everywhere(edges: list[Edge]) -> None:
    for _ in range(FAILURES):
        edges[0].fails()
    await until(lambda: all(edge.resting() for edge in edges), "all know of it")
    await until(lambda: edges[1].request() or edges[2].request(), "one of them may try")
    prober = next(edge for edge in edges if edge.sent)
    prober.health.worked(TARGET, prober.now())
    await until(lambda: not any(edge.resting() for edge in edges), "it is closed", 2)


async def test_a_probe_is_one_processes_until_its_interval_is_over(nats: NatsServer) -> None:
    buses = [await nats.bus(), await nats.bus()]
    await ensure_layout(buses[0], 1)
    one, other = (SharedBreakers(bus, str(n), told) for n, bus in enumerate(buses))
    won = await asyncio.gather(*(each.claim("p", "m", 1) for each in (one, other)))
    assert sorted(won) == [False, True]
    assert not await one.claim("p", "m", 1)
    assert await one.claim("p", "n", 1)
    await until(lambda: other.claim("p", "m", 1), "the next interval has come", 5)
    for bus in buses:
        await bus.close()


async def test_while_nobody_takes_claims_each_process_probes_by_itself(nats: NatsServer) -> None:
    bus = await nats.bus()
    await ensure_layout(bus, 1)
    one, other = (SharedBreakers(bus, str(n), told) for n in range(2))
    assert await one.claim("p", "m", 60)
    assert not await other.claim("p", "m", 60)
    config = (await bus.js.stream_info(f"KV_{subjects.BREAKER}")).config
    await bus.js.update_stream(config.evolve(subjects=["elsewhere.>"]))
    assert await one.claim("p", "n", 60)
    assert await other.claim("p", "n", 60)
    await bus.close()


def told(_: Opened) -> None:
    """Nobody listens."""
