"""Requests that are asked twice, with real processes: who answers, what stops, what is charged."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.system.shared import shared_stack
from tests.system.stack import Stack, until

SLOW = "tokens=3,ttft_ms=3000"
# Nobody waits for this one where hedging works.
SLOWEST = "tokens=3,ttft_ms=20000"
SOON_S = 10
QUICK = "tokens=4"
# The first call is never answered, the next one is.
STUCK = "tokens=5,fault=hang,first_n=1"
AFTER_MS = 200
RULES = {
    "aliases": {
        "slow": {"deployments": [f"sim/{SLOW}"], "fallbacks": [f"sim/{QUICK}"]},
        "slowest": {"deployments": [f"sim/{SLOWEST}"], "fallbacks": [f"sim/{QUICK}"]},
        "hedged": {"deployments": [f"sim/{SLOWEST}"], "fallbacks": [f"sim/{QUICK}"]},
    },
    "hedge_after_ms": {"hedged": AFTER_MS, "slow": AFTER_MS},
}


@pytest.fixture(scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    tight = {"kind": "openai_compatible", "slots": 1}
    async with shared_stack(
        tmp_path_factory, providers={"tight": tight}, sections={"routing": RULES}
    ) as running:
        running.worker_env = {"TIGHT_BASE_URL": f"http://127.0.0.1:{running.sim_port}/v1"}
        running.start_worker(1, "tight")
        await until(lambda: running.live_workers(2), "the workers are live")
        yield running


@pytest.fixture(autouse=True)
async def fresh(stack: Stack) -> None:
    await stack.reset_sim()


async def records(stack: Stack) -> tuple[int, int, int]:
    """Charges, attempts and cancelled attempts so far."""
    total = (await stack.ledger()).total()
    return total.charges, total.attempts, total.cancelled


async def took(stack: Stack, model: str, **fields: Any) -> tuple[float, dict[str, str]]:
    """Seconds that a whole answer took, and its headers."""
    begun = time.monotonic()
    async with stack.client() as client:
        answer = await stack.chat(client, model, **fields)
    assert answer.status_code == 200, answer.text
    return time.monotonic() - begun, dict(answer.headers)


async def test_the_second_attempt_answers_the_first_is_closed_and_one_is_charged(
    stack: Stack,
) -> None:
    before = await records(stack)
    begun = time.monotonic()
    async with stack.client() as client:
        answer = await stack.stream_text(client, "slowest", hedge_after_ms=AFTER_MS)
        assert time.monotonic() - begun < SOON_S
        assert (answer.status, answer.done, len(answer.text.split())) == (200, True, 4)
        assert answer.headers["x-millrace-route"].endswith(f"; hedge sim/{QUICK} won")
        # It would have run for 20 s (R8).
        await until(lambda: aborted(stack), "the first call is closed", SOON_S)
    stats = await stack.sim_stats()
    assert (stats["calls"], stats["finished"], stats["open"]) == (2, 1, 0)
    await stack.quiet(timeout_s=SOON_S)

    async def written() -> bool:
        charges, attempts, cancelled = await records(stack)
        return (charges - before[0], attempts - before[1], cancelled - before[2]) == (1, 2, 1)

    await until(written, "one charge for two attempts, one of them cancelled")


async def aborted(stack: Stack) -> bool:
    return bool((await stack.sim_stats())["aborted"] == 1)


async def test_the_settings_hedge_a_model_and_a_request_may_say_no(stack: Stack) -> None:
    seconds, headers = await took(stack, "hedged")
    assert seconds < SOON_S
    assert headers["x-millrace-route"].endswith("won")
    await stack.quiet(timeout_s=SOON_S)
    await stack.reset_sim()
    seconds, headers = await took(stack, "slow", hedge_after_ms=0)
    assert seconds >= 3
    assert "hedge" not in headers["x-millrace-route"]
    assert (await stack.sim_stats())["calls"] == 1


async def test_the_same_target_is_asked_again_where_there_is_no_other(stack: Stack) -> None:
    _, headers = await took(stack, f"sim/{STUCK}", hedge_after_ms=AFTER_MS)
    assert headers["x-millrace-route"] == f"price; sim/{STUCK}; hedge sim/{STUCK} won"
    stats = await stack.sim_stats()
    assert (stats["calls"], stats["finished"]) == (2, 1)
    await until(lambda: aborted(stack), "the call that hung is closed", SOON_S)


async def test_a_first_attempt_that_is_quicker_wins_and_the_second_is_closed(stack: Stack) -> None:
    model = "sim/tokens=2,ttft_ms=1000"
    _, headers = await took(stack, model, hedge_after_ms=AFTER_MS)
    assert headers["x-millrace-route"].endswith("lost")
    await until(lambda: aborted(stack), "the second call is closed", SOON_S)


async def test_no_slot_is_taken_that_another_request_could_use(stack: Stack) -> None:
    _, headers = await took(stack, "tight/tokens=1,ttft_ms=1000", hedge_after_ms=AFTER_MS)
    assert "hedge" not in headers["x-millrace-route"]
    assert (await stack.sim_stats())["calls"] == 1


async def test_a_caller_that_leaves_closes_both_calls(stack: Stack) -> None:
    async with stack.client() as client:
        asking = asyncio.create_task(
            stack.chat(client, "sim/tokens=2,fault=hang", hedge_after_ms=AFTER_MS)
        )

        async def both() -> bool:
            return bool((await stack.sim_stats())["open"] == 2)

        await until(both, "both calls run")
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    await stack.quiet(timeout_s=SOON_S)
    assert (await stack.sim_stats())["aborted"] == 2
