"""A network between NATS and an edge, or NATS and a worker, that carries nothing any more."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from functools import partial

import httpx

from tests.ports import free_port
from tests.system.stack import MakeStack, Stack, until

QUICK = "sim/tokens=2"
# It takes some seconds to tell silence from slowness; from then on it is known.
FIRST_S, THEN_S = 8.0, 1.0


def through_proxy() -> dict[str, str]:
    """Where a process finds NATS behind the proxy."""
    return {"MILLRACE_NATS": f"nats://127.0.0.1:{free_port()}"}


@contextlib.asynccontextmanager
async def parted(stack: Stack) -> AsyncIterator[None]:
    """While nothing comes through the proxy."""
    stack.processes["proxy"].kill(signal.SIGSTOP)
    try:
        yield
    finally:
        stack.processes["proxy"].kill(signal.SIGCONT)


async def charges(stack: Stack, count: int) -> bool:
    return (await stack.ledger()).total().charges == count


async def answered(stack: Stack, client: httpx.AsyncClient) -> bool:
    return (await stack.chat(client, QUICK)).status_code == 200


async def timed(stack: Stack, client: httpx.AsyncClient) -> tuple[httpx.Response, float]:
    """An answer, and the seconds it took."""
    begun = time.monotonic()
    answer = await stack.chat(client, QUICK)
    return answer, time.monotonic() - begun


async def test_an_edge_that_nats_is_cut_off_from_refuses_at_once_and_finishes_what_runs(
    make_stack: MakeStack,
) -> None:
    stack = await make_stack(workers=1, edge_env=through_proxy(), proxied="edge")
    async with stack.client() as client:
        model = "sim/tokens=80,delay_ms=100"
        stream = asyncio.create_task(stack.stream_text(client, model))
        await until(partial(stack.open_calls, 1), "the stream runs")
        async with parted(stack):
            first = await asyncio.gather(*(timed(stack, client) for _ in range(20)))
            then = await asyncio.gather(*(timed(stack, client) for _ in range(20)))
            assert (await client.get("/readyz")).status_code == 503
            whole = await stream
        assert (whole.done, whole.error, whole.finish) == (True, None, "stop")
        answers = [answer for answer, _ in (*first, *then)]
        assert {a.status_code for a in answers} == {503}
        assert {a.json()["error"]["code"] for a in answers} == {"broker_unavailable"}
        assert all(a.headers["retry-after"] for a in answers)
        assert max(took for _, took in first) < FIRST_S
        assert max(took for _, took in then) < THEN_S
        await until(partial(answered, stack, client), "it serves again", 30)
        await stack.quiet(timeout_s=20)
        await until(stack.queue_empty, "no job is left", 40)
    # What was refused was not run afterwards, and the stream's charge was not lost.
    await until(partial(charges, stack, 2), "both answers are charged, and nothing else", 40)
    assert (await stack.sim_stats())["calls"] == 2


async def test_a_worker_that_nats_is_cut_off_from_finishes_what_runs_and_others_take_the_rest(
    make_stack: MakeStack,
) -> None:
    env = through_proxy()
    stack = await make_stack(workers=1, worker_env=env, proxied="worker")
    async with stack.client() as client:
        model = "sim/tokens=60,delay_ms=100"
        streams = [asyncio.create_task(stack.stream_text(client, model)) for _ in range(10)]
        await until(partial(stack.open_calls, 10), "the streams run")
        stack.worker_env = {}
        stack.start_worker(1)
        await until(lambda: stack.live_workers(2), "another worker is there")
        async with parted(stack):
            quick = await asyncio.gather(*(stack.chat(client, QUICK) for _ in range(100)))
            whole = await asyncio.gather(*streams)
        assert Counter(a.status_code for a in quick) == {200: 100}
        assert all((a.done, a.error) == (True, None) for a in whole)
        await stack.quiet(timeout_s=20)
        await until(stack.queue_empty, "no job is left", 40)
        # Its late deliveries start nothing; what it answered is on record.
        await until(partial(charges, stack, 110), "each is charged once", 40)
        assert (await stack.sim_stats())["calls"] == 110
        await until(partial(answered, stack, client), "it serves on")
