"""How long interactive requests take that come now and then."""

from __future__ import annotations

import asyncio
import random
import time

import httpx

from tests.system.stack import Stack


async def latencies(
    stack: Stack, client: httpx.AsyncClient, model: str, rate: float, for_s: float
) -> list[float]:
    """Seconds that requests for a model took, `rate` of them a second, sorted."""
    took = []

    async def one() -> None:
        begun = time.perf_counter()
        answer = await stack.chat(client, f"sim/{model}")
        took.append(time.perf_counter() - begun)
        assert answer.status_code == 200, answer.text

    chance = random.Random(1)
    ends = time.perf_counter() + for_s
    async with asyncio.TaskGroup() as group:
        while time.perf_counter() < ends:
            group.create_task(one())
            await asyncio.sleep(chance.expovariate(rate))
    return sorted(took)


def p99(latencies: list[float]) -> float:
    return latencies[int(len(latencies) * 0.99)]
