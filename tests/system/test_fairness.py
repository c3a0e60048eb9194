"""Fairness between API keys, with a flood of one key's requests queued on two edges."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import sys
import time
from collections.abc import AsyncIterator

from broker.bus.keyring import Keyring
from broker.v1 import inference_service_pb2 as pb
from edge.rpc.bulk import ITEMS
from tests.system.rpc import Sender, ask, connected, failure, item
from tests.system.stack import MakeStack, Stack, until
from tests.system.test_metrics import number

EDGES = ("edge", "edge1")
FLOOD = 10_000
SLOTS = 16
# Requests of the modest key, of which so many run at a time.
MODEST = 60
TOGETHER = 3
MODEL = "sim/sim-tokens=1,ttft_ms=250"
# As long on the average, and no two of them in step.
FLOOD_MODELS = [
    f"sim/sim-tokens=1,ttft_ms={ms}" for ms in random.Random(7).sample(range(150, 351), 50)
]


async def p95(stack: Stack, secret: str) -> float:
    """Seconds that all but three of the modest key's requests take at most, over both edges."""
    took: list[float] = []
    turns = itertools.cycle(EDGES)

    async def ask_on(count: int) -> None:
        for _ in range(count):
            name = next(turns)
            begun = time.monotonic()
            answer = await stack.chat(clients[name], MODEL)
            assert answer.status_code == 200, answer.text
            took.append(time.monotonic() - begun)

    async with contextlib.AsyncExitStack() as entered:
        clients = {name: await entered.enter_async_context(stack.client(name)) for name in EDGES}
        for client in clients.values():
            client.headers["authorization"] = f"Bearer {secret}"
            client.timeout = 10
        await asyncio.gather(*(ask_on(MODEST // TOGETHER) for _ in range(TOGETHER)))
    return sorted(took)[-MODEST // 20]


@contextlib.asynccontextmanager
async def flood(stack: Stack) -> AsyncIterator[None]:
    """Inside, 10,000 requests of the stack's own key wait, half on each edge.

    Each bulk call keeps 256 of them there, over one socket.
    """
    models = itertools.cycle(FLOOD_MODELS)

    def items() -> AsyncIterator[pb.InferManyRequest]:
        return aiter(Sender(item(f"i{n}", ask(next(models))) for n in itertools.count()))

    async with contextlib.AsyncExitStack() as entered:
        clients = [await entered.enter_async_context(connected(stack, name)) for name in EDGES]
        calls = -(-FLOOD // 2 // ITEMS) + 1
        running = [c.many(items(), timeout=500) for c in clients for _ in range(calls)]

        async def all_wait() -> bool:
            loads = [await stack.load(name) for name in EDGES]
            return min(load.queued for load in loads) >= FLOOD // 2

        try:
            await until(all_wait, f"{FLOOD} requests wait", 60)
            yield
        finally:
            for call in running:
                call.cancel()


async def test_a_flood_of_one_key_on_two_edges_no_more_than_doubles_what_another_waits(
    make_stack: MakeStack,
) -> None:
    stack: Stack = await make_stack(workers=1, edges=2, slots=SLOTS)
    secret, _ = await Keyring(stack.bus).create("modest")
    alone = await p95(stack, secret)
    async with flood(stack):
        crowded = await p95(stack, secret)
    sys.stdout.write(f"p95 alone {alone:.3f} s, beside {FLOOD} of another key {crowded:.3f} s\n")
    assert crowded <= 2 * alone
    for name in EDGES:
        await stack.quiet(name, 20)


async def test_bodies_over_http_and_grpc_are_bounded_together(make_stack: MakeStack) -> None:
    stack: Stack = await make_stack(workers=1, limits={"held_bytes": 1_000_000})
    async with stack.client() as client, connected(stack) as other:

        async def held() -> float:
            return number((await client.get("/metrics")).text, "held_bytes")

        slow = "sim/sim-tokens=1,ttft_ms=4000"
        first = asyncio.create_task(stack.chat(client, slow, "x" * 700_000))

        async def runs() -> bool:
            return bool((await stack.load()).running)

        await until(runs, "it runs")
        assert 700_000 < await held() < 701_000
        found = await failure(other.infer(ask("sim/echo", "x" * 400_000)))
        assert (found.code, found.reason) == ("RESOURCE_EXHAUSTED", "queue_full")
        assert (await stack.chat(client, "sim/echo", "x" * 400_000)).status_code == 429
        assert (await other.infer(ask("sim/echo", "x" * 50_000))).HasField("answer")
        assert (await first).status_code == 200
        assert number((await client.get("/metrics")).text, "refused_total") == 2
        assert (await other.infer(ask("sim/echo", "x" * 400_000))).HasField("answer")
        assert await held() == 0
