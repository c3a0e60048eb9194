"""A shown answer whose worker is lost while all slots are taken, and others could be asked."""

from __future__ import annotations

import asyncio

from tests.system.stack import MakeStack, until

SLOTS = 8
TOKENS = 60
SLOW = f"sim/sim-tokens={TOKENS},delay_ms=120"
OTHER = "spare/sim-tokens=5"


async def test_it_waits_for_its_own_model_and_is_never_gone_on_with_by_another(
    make_stack: MakeStack,
) -> None:
    stack = await make_stack(
        workers=2,
        slots=SLOTS,
        providers={"spare": {"kind": "openai_compatible"}},
        edge_env={"SPARE_BASE_URL": "http://127.0.0.1:9/v1"},
    )
    stack.worker_env = {"SPARE_BASE_URL": f"http://127.0.0.1:{stack.sim_port}/v1"}
    stack.start_worker(2, "spare")
    await until(lambda: stack.live_workers(3), "the workers are live")
    async with stack.client() as client:
        whole = (await stack.chat(client, f"sim/sim-tokens={TOKENS}")).json()
        text = whole["choices"][0]["message"]["content"]
        streams = [
            asyncio.create_task(stack.stream_text(client, SLOW, models=[OTHER]))
            for _ in range(2 * SLOTS)
        ]

        async def running() -> bool:
            busy = (await stack.load()).running
            return busy == 2 * SLOTS and (await stack.sim_stats())["open"] == 2 * SLOTS

        await until(running, "all slots are taken")
        await asyncio.sleep(0.5)  # let content be shown
        stack.processes["worker0"].kill()
        answers = await asyncio.gather(*streams)
    # Half of them waited for longer than a candidate's queue is waited for.
    assert [answer.error for answer in answers] == [None] * 2 * SLOTS
    assert {answer.text for answer in answers} == {text}
    assert all(answer.done for answer in answers)
    await stack.quiet()
