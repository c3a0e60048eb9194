"""What answers cost: told with the answer, charged once, and the same after a worker was killed."""

from __future__ import annotations

import asyncio

from tests.system.stack import MakeStack, until

MODEL = "tokens=30,delay_ms=20"
# Billionths of a dollar for a token.
INPUT, OUTPUT = 3_000, 15_000
OFFER = {
    "provider": "sim",
    "model": MODEL,
    "rates": {"prices": {"input_tokens": INPUT * 10**6, "output_tokens": OUTPUT * 10**6}},
}


async def test_the_cost_of_an_answer_is_told_and_the_ledger_adds_up_after_chaos(
    make_stack: MakeStack,
) -> None:
    stack = await make_stack(workers=2, sections={"routing": {"offers": [OFFER]}})
    async with stack.client() as client:
        whole = await stack.chat(client, f"sim/{MODEL}", tags=["a", "b"], signature="mine")
        usage = whole.json()["usage"]
        cost = usage["prompt_tokens"] * INPUT + 30 * OUTPUT
        assert float(whole.headers["x-millrace-cost"]) == cost / 10**9
        # What has no price in the catalogue has none here.
        assert "x-millrace-cost" not in (await stack.chat(client, "sim/tokens=1")).headers

        streams = [
            asyncio.create_task(stack.stream_text(client, f"sim/{MODEL}")) for _ in range(20)
        ]
        calls = [asyncio.create_task(stack.chat(client, f"sim/{MODEL}")) for _ in range(20)]
        await asyncio.sleep(0.2)
        stack.processes["worker1"].kill()
        assert all(answer.done for answer in await asyncio.gather(*streams))
        assert {answer.status_code for answer in await asyncio.gather(*calls)} == {200}
    await stack.quiet()

    async def charged() -> bool:
        return (await stack.ledger()).total().charges == 42

    await until(charged, "every answer is charged")
    assert (await stack.ledger()).total().cost_nano == 41 * cost
