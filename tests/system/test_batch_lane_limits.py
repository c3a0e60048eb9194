"""Lines of a model whose provider limits it take what it allows, and nothing that others need.

A provider allows 8 calls at a time and says so, and a batch wants hundreds. Requests for that model
go before its lines, requests for other models and their lines are not held up at all.
"""

from __future__ import annotations

import asyncio
import time

from tests.system.latency import latencies, p99
from tests.system.lines import Lines, chat
from tests.system.stack import MakeStack, Stack, until

SLOTS, OPEN, RESERVE, CALL_S = 32, 8, 1, 0.2
LIMITED = f"limited,ttft_ms=200,tokens=2,allow_open={OPEN},advertise"
FREE = "free,ttft_ms=200,tokens=2"
RATE, FOR_S = 5.0, 6.0
# Of what requests leave; a request's own place is not always taken at once when it is done.
LEAST_USED = 0.6
# A request for the limited model waits for the end of a call at most, and a busy machine is slower.
SLACK_S = 1.0


async def calls(stack: Stack, model: str) -> int:
    return int((await stack.sim_stats())["by_model"].get(model, 0))


async def test_a_batch_of_a_limited_model_holds_up_neither_requests_nor_other_lines(
    make_stack: MakeStack,
) -> None:
    stack = await make_stack(workers=2, slots=SLOTS)
    lines = Lines(stack)
    async with stack.client() as client:
        await latencies(stack, client, FREE, RATE, 1)
        idle = p99(await latencies(stack, client, LIMITED, RATE, 3))
        count = int((FOR_S + 12) * OPEN / CALL_S)
        await lines.send(*(chat(LIMITED) for _ in range(count)))
        before = await calls(stack, LIMITED)

        async def begun() -> bool:
            return await calls(stack, LIMITED) > before + 2 * OPEN

        await until(begun, "the batch runs")
        busy_from, at = time.perf_counter(), await calls(stack, LIMITED)
        theirs, others = await asyncio.gather(
            latencies(stack, client, LIMITED, RATE, FOR_S),
            latencies(stack, client, FREE, 2 * RATE, FOR_S),
        )
        took = time.perf_counter() - busy_from
        done = await calls(stack, LIMITED) - at - len(theirs)
        # Others' lines come though hundreds are before them.
        await lines.send(*(chat(FREE) for _ in range(40)))
        free = range(lines.published - 39, lines.published + 1)

        async def answered() -> bool:
            return all([await lines.result(number) for number in free])

        await until(answered, "lines of the other model are answered", 15)
        assert await lines.results() < lines.published - OPEN
        stats = await stack.sim_stats()
    assert p99(others) <= 2 * idle + SLACK_S
    assert p99(theirs) <= 2 * idle + CALL_S + SLACK_S
    left = OPEN - RESERVE - RATE * CALL_S
    assert done / took >= LEAST_USED * left / CALL_S
    refused = stats["by_status"].get("429", 0)
    assert refused <= 0.02 * sum(stats["by_model"].values()) + OPEN
