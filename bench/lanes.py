"""What a batch costs interactive requests, and what it uses of the rest: `python -m bench.lanes`.

One worker with 64 slots, a provider (sim) that takes 200 ms, and a reserve of 5 % of the slots.
Interactive requests come at random, first alone, then beside a batch that would fill everything,
then alone again. Their p99 may double; of the slots that they and the reserve leave, 85 % have to
be used by calls of the batch that were answered.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.system.stack import Stack, until

MOST_TIMES_IDLE = 2.0
LEAST_USED = 0.85
_RESERVE = 0.05
# After the batch has begun, until it is measured.
_SETTLING_S = 5.0


@dataclass(frozen=True)
class Seen:
    """Latencies in seconds, sorted, and how many requests were open on average."""

    latencies: list[float]
    open: float
    seconds: float

    def part(self, of: float) -> float:
        """The latency in milliseconds that so many did not exceed."""
        return self.latencies[int(len(self.latencies) * of)] * 1000


async def _ask(
    stack: Stack, client: httpx.AsyncClient, model: str, rate: float, for_s: float
) -> Seen:
    """Requests that come at random, `rate` a second."""
    took: list[float] = []

    async def one() -> None:
        begun = time.perf_counter()
        answer = await stack.chat(client, model)
        took.append(time.perf_counter() - begun)
        answer.raise_for_status()

    dice = random.Random(1)
    begun = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        while time.perf_counter() < begun + for_s:
            group.create_task(one())
            await asyncio.sleep(dice.expovariate(rate))
    return Seen(sorted(took), sum(took) / for_s, for_s)


async def _batch(client: httpx.AsyncClient, model: str, count: int) -> str:
    """A batch of `count` lines; its id."""
    lines = "".join(
        json.dumps(
            {
                "custom_id": f"request-{number}",
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": {"model": model, "messages": [{"role": "user", "content": f"{number}"}]},
            }
        )
        + "\n"
        for number in range(count)
    )
    file = await client.post(
        "/v1/files", data={"purpose": "batch"}, files={"file": ("lanes.jsonl", lines)}
    )
    file.raise_for_status()
    made = await client.post(
        "/v1/batches",
        json={
            "input_file_id": file.json()["id"],
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
        },
    )
    made.raise_for_status()
    return str(made.json()["id"])


async def _answered(client: httpx.AsyncClient, batch: str) -> int:
    answer = await client.get(f"/v1/batches/{batch}")
    answer.raise_for_status()
    return int(answer.json()["request_counts"]["completed"])


def _told(name: str, seen: Seen) -> None:
    print(
        f"{name:14} {len(seen.latencies)} requests in {seen.seconds:.0f} s: "
        f"p50 {seen.part(0.5):.0f}, p95 {seen.part(0.95):.0f}, p99 {seen.part(0.99):.0f} ms",
        flush=True,
    )


async def main(arguments: argparse.Namespace) -> bool:
    slots, seconds, rate = arguments.slots, arguments.seconds, arguments.rate
    name = f"sim-ttft_ms={arguments.answer_ms},tokens=20"
    call_s = arguments.answer_ms / 1000
    with tempfile.TemporaryDirectory() as folder:
        env = {"MILLRACE_CAPACITY_INTERACTIVE_RESERVE": str(_RESERVE)}
        stack = Stack(Path(folder), slots=slots, extra_env=env)
        await stack.start(workers=1)
        try:
            async with stack.client() as client:
                await _ask(stack, client, f"sim/{name}", rate, 3)  # connections are warm then
                before = await _ask(stack, client, f"sim/{name}", rate, seconds)
                _told("alone", before)
                count = int((3 * _SETTLING_S + seconds) * slots / call_s)
                batch = await _batch(client, f"sim/{name}", count)

                async def running() -> bool:
                    return bool(await _answered(client, batch) > slots)

                await until(running, "the batch runs")
                await asyncio.sleep(_SETTLING_S)
                begun, first = time.perf_counter(), await _answered(client, batch)
                beside = await _ask(stack, client, f"sim/{name}", rate, seconds)
                done = await _answered(client, batch) - first
                took = time.perf_counter() - begun
                _told("beside a batch", beside)
                (await client.post(f"/v1/batches/{batch}/cancel")).raise_for_status()
                await asyncio.sleep(_SETTLING_S)
                after = await _ask(stack, client, f"sim/{name}", rate, seconds)
                _told("alone again", after)
        finally:
            await stack.stop()
    left = slots - beside.open - slots * _RESERVE
    used = done / took * call_s / left
    times = beside.part(0.99) / max(before.part(0.99), after.part(0.99))
    worst = beside.part(0.99) / min(before.part(0.99), after.part(0.99))
    print(
        f"p99 beside a batch is {times:.2f} to {worst:.2f} times of alone "
        f"(goal {MOST_TIMES_IDLE:g})"
    )
    print(
        f"the batch: {done} lines in {took:.0f} s, {done / took:.0f} a second; "
        f"of the {left:.1f} slots that were left it used {used:.0%} (goal {LEAST_USED:.0%})"
    )
    return worst <= MOST_TIMES_IDLE and used >= LEAST_USED


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.lanes", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--answer-ms", type=int, default=200)
    parser.add_argument("--rate", type=float, default=20.0, help="interactive requests a second")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(not asyncio.run(main(_arguments())))
