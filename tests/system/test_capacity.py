"""Workers share what a provider allows, and find out together how much that is."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from functools import partial
from statistics import fmean
from typing import Any

import httpx
import pytest

from broker import subjects
from tests.system.shared import shared_stack
from tests.system.stack import MakeStack, Stack, until

WORKERS = 4
# What sim allows, and how long an answer takes: at this rate 15 are open at a time.
OPEN, RATE, TTFT_MS = 24, 100, 150
# Refusals before are how the limits are met.
WARM_S = 5.0


@pytest.fixture(scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    quiet = {"MILLRACE_LOG_LEVEL": "warning"}
    async with shared_stack(tmp_path_factory, workers=WORKERS, extra_env=quiet) as made:
        made.spawn("broker2", "broker")
        yield made


@dataclass
class Flood:
    """Many clients that ask for one model again and again; what sim counted each second."""

    stack: Stack
    model: str
    clients: int = 80
    ends: Counter[int] = field(default_factory=Counter)
    # Seconds since the beginning, calls and refusals of this model by then.
    seen: list[tuple[float, int, int]] = field(default_factory=list)
    # Seconds since the beginning, and calls that were open then, while all clients had requests.
    open: list[tuple[float, int]] = field(default_factory=list)
    _left: int = 0

    async def run(self, requests: int) -> None:
        self._left = requests
        before = await self.stack.sim_stats()
        watching = asyncio.create_task(self._watch(before, time.monotonic()))
        async with self.stack.client() as client:
            await asyncio.gather(*(self._ask(client) for _ in range(self.clients)))
        await asyncio.sleep(0.3)
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching

    async def _ask(self, client: httpx.AsyncClient) -> None:
        while self._left > 0:
            self._left -= 1
            response = await self.stack.chat(client, f"sim/{self.model}")
            self.ends[response.status_code] += 1

    async def _watch(self, before: dict[str, Any], begun: float) -> None:
        while True:
            stats = await self.stack.sim_stats()
            calls = stats["by_model"].get(self.model, 0) - before["by_model"].get(self.model, 0)
            refused = stats["by_status"].get("429", 0) - before["by_status"].get("429", 0)
            self.seen.append((time.monotonic() - begun, calls, refused))
            if self._left > 0:
                self.open.append((self.seen[-1][0], stats["open"]))
            await asyncio.sleep(0.1)

    def since(self, seconds: float) -> tuple[float, int, int]:
        """Seconds, calls and refusals after the first `seconds`."""
        first = next(row for row in self.seen if row[0] >= seconds)
        took, calls, refused = (a - b for a, b in zip(self.seen[-1], first, strict=True))
        return took, int(calls), int(refused)


def limited(name: str, *, advertised: bool, **more: object) -> str:
    knobs = {"tokens": 2, "ttft_ms": TTFT_MS, "allow_open": OPEN, "allow_rate": RATE, **more}
    text = ",".join(f"{knob}={value}" for knob, value in knobs.items())
    return f"{name},{text}{',advertise' if advertised else ''}"


@pytest.mark.parametrize(
    ("advertised", "most", "least"),
    [(True, 0.02, 0.85), (False, 0.05, 0.65)],
    ids=["told", "found"],
)
async def test_the_workers_together_use_what_a_provider_allows_and_no_more(
    stack: Stack, advertised: bool, most: float, least: float
) -> None:
    # So few a second that a busy machine makes them: what is open says how much is used, however
    # long an answer takes there.
    flood = Flood(stack, limited(f"fleet{advertised:d}", advertised=advertised, ttft_ms=600))
    await flood.run(600)
    # Where nothing is advertised a request may meet three refusals in a row.
    assert flood.ends[200] >= (600 if advertised else 590), flood.ends
    assert set(flood.ends) <= {200, 429}
    took, calls, refused = flood.since(WARM_S)
    assert calls > 150, flood.seen[-1]
    assert refused <= most * calls, (refused, calls)
    used = fmean(count for at, count in flood.open if at >= WARM_S) / OPEN
    assert used >= least, (used, calls, took)
    (told,) = await allowances(stack, f"fleet{advertised:d}")
    assert least * OPEN <= told["slots"] <= 1.2 * OPEN
    await stack.quiet()


async def allowances(stack: Stack, name: str) -> Iterator[dict[str, Any]]:
    kv = await stack.bus.kv(subjects.CAPACITY)
    keys = [key for key in await kv.keys() if key.startswith("p.")]
    found = [json.loads((await kv.get(key)).value or b"{}") for key in keys]
    return iter([one for one in found if one["model"].startswith(name)])


async def test_each_worker_has_a_part_and_the_parts_are_the_whole(stack: Stack) -> None:
    flood = Flood(stack, limited("parts", advertised=True), clients=40)
    await flood.run(150)

    async def whole() -> bool:
        (told,) = await allowances(stack, "parts")
        shares = told["shares"].values()
        slots = sum(share["slots"] for share in shares)
        rate = sum(share["rate"] for share in shares)
        met = told["slots"] == OPEN and len(shares) == WORKERS and slots == OPEN
        return bool(met and 0.9 * RATE <= rate <= RATE)

    await until(whole, "the parts are the whole")


async def test_a_provider_that_wants_to_be_left_alone_is_left_alone_by_all(stack: Stack) -> None:
    model = "rests,tokens=2,fault=status,status=429,retry_after=4,first_n=1"
    async with stack.client() as client:
        first = asyncio.create_task(stack.chat(client, f"sim/{model}"))

        async def calls() -> int:
            return int((await stack.sim_stats())["by_model"].get(model, 0))

        await until(calls, "the first call was refused")
        begun = time.monotonic()
        # The others are told of it by then.
        await until(partial(told_to_rest, stack), "the leader has told")
        asked = [asyncio.create_task(stack.chat(client, f"sim/{model}")) for _ in range(20)]
        while time.monotonic() < begun + 3:
            assert await calls() == 1
            await asyncio.sleep(0.1)
        answers = await asyncio.gather(first, *asked)
    assert {answer.status_code for answer in answers} == {200}
    assert await calls() == 22


async def told_to_rest(stack: Stack) -> bool:
    return any(told["rest_s"] > 0 for told in await allowances(stack, "rests"))


async def test_one_model_that_is_limited_keeps_no_other_waiting(stack: Stack) -> None:
    flood = Flood(stack, limited("slow", advertised=True, ttft_ms=500, allow_open=4), clients=60)
    running = asyncio.create_task(flood.run(60))
    async with stack.client() as client:
        await asyncio.sleep(1.5)
        times = []
        for _ in range(10):
            begun = time.monotonic()
            response = await stack.chat(client, "sim/quick,tokens=2")
            assert response.status_code == 200
            times.append(time.monotonic() - begun)
    assert not running.done()
    # 60 requests take 7.5 s at 8 a second; others go past them.
    assert sorted(times)[5] < 1.0, times
    await running
    assert flood.ends == {200: 60}


async def leader(stack: Stack) -> bytes:
    kv = await stack.bus.kv(subjects.CAPACITY)
    with contextlib.suppress(Exception):
        return (await kv.get(subjects.LEADER)).value or b""
    return b""


async def test_another_leads_when_the_leader_is_killed_and_what_was_allowed_holds(
    make_stack: MakeStack,
) -> None:
    stack = await make_stack(workers=WORKERS, extra_env={"MILLRACE_LOG_LEVEL": "warning"})
    first = await until(partial(leader, stack), "somebody leads")
    flood = Flood(stack, limited("held", advertised=True), clients=60)
    running = asyncio.create_task(flood.run(1500))
    await asyncio.sleep(WARM_S)
    stack.processes["broker"].kill()
    at = flood.seen[-1][0]
    await asyncio.sleep(1)
    stack.spawn("broker2", "broker")

    async def another() -> bool:
        return (await leader(stack)) not in (b"", first)

    await until(another, "another one leads", 20)
    await running
    assert flood.ends == {200: 1500}
    took, calls, refused = flood.since(at)
    assert refused <= 0.02 * calls, (took, calls, refused)
    # It went on from what the first one knew.
    (told,) = await allowances(stack, "held")
    assert told["slots"] == OPEN
