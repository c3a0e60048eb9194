"""The numbers of every process, while it works and when it is idle again."""

from __future__ import annotations

import asyncio
import re

import httpx

from tests.ports import free_port
from tests.system.stack import MakeStack, until


def number(text: str, name: str) -> float:
    values = re.findall(rf"^millrace_{name}(?:{{[^}}]*}})? ([0-9.e+]+)$", text, re.MULTILINE)
    assert values, f"no {name} in the metrics"
    return sum(map(float, values))


async def test_edge_and_worker_show_what_runs_and_go_back_to_zero(make_stack: MakeStack) -> None:
    port = free_port()
    stack = await make_stack(workers=1, worker_env={"MILLRACE_METRICS": f"127.0.0.1:{port}"})

    async def worker() -> str:
        async with httpx.AsyncClient() as client:
            return (await client.get(f"http://127.0.0.1:{port}/metrics")).text

    async with stack.client() as client:
        calls = [
            asyncio.create_task(stack.chat(client, "sim/sim-tokens=2,ttft_ms=4000"))
            for _ in range(7)
        ]

        async def all_run() -> bool:
            shown = await worker()
            return (number(shown, "busy"), number(shown, "calls")) == (7, 7)

        await until(all_run, "the worker shows seven calls")
        edge = (await client.get("/metrics")).text
        assert number(edge, "in_flight") == 7
        assert number(edge, "running") == 7

        async def heard() -> bool:
            return number((await client.get("/metrics")).text, "worker_calls") == 7

        await until(heard, "the edge shows what its worker said", 5)
        assert {a.status_code for a in await asyncio.gather(*calls)} == {200}

        async def all_zero() -> bool:
            shown = await worker()
            edge = (await client.get("/metrics")).text
            here = [number(shown, name) for name in ("busy", "held", "calls", "records")]
            there = [number(edge, n) for n in ("in_flight", "queue_depth", "running", "published")]
            return not any(here + there) and not number(edge, "worker_calls")

        await until(all_zero, "everything is back at 0", 5)
        async with httpx.AsyncClient() as other:
            answer = await other.get(f"http://127.0.0.1:{port}/elsewhere")
        assert answer.status_code == 404
