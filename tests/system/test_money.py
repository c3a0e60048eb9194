"""What answers cost: told with the answer, charged once, and the same after a worker was killed."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.system.answers import create, over
from tests.system.stack import ROOT, MakeStack, Stack, until

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


async def test_the_bill_is_the_sum_of_what_was_told_in_all_lanes(make_stack: MakeStack) -> None:
    stack = await make_stack(workers=1, sections={"routing": {"offers": [OFFER]}})
    async with stack.client() as client:
        whole = await stack.chat(client, f"sim/{MODEL}")
        told = [float(whole.headers["x-millrace-cost"])]
        body = {
            "model": f"sim/{MODEL}",
            "messages": [{"role": "user", "content": "hi"}],
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        stream = await client.post("/v1/chat/completions", json=body)
        last = json.loads(stream.text.split("\n\n")[-3].removeprefix("data: "))
        told.append(last["usage"]["cost"])
        assert told[-1] == (last["usage"]["prompt_tokens"] * INPUT + 30 * OUTPUT) / 10**9
        done = await over(client, (await create(client, f"sim/{MODEL}", background=True))["id"])
        assert done["status"] == "completed"
        told.append((done["usage"]["input_tokens"] * INPUT + 30 * OUTPUT) / 10**9)

    async def charged() -> bool:
        return (await stack.ledger()).total().charges == 3

    await until(charged, "every answer is charged")
    bill = usage(stack, "--by", "tenant,key,model,day")
    assert float(bill["total"]["cost_usd"]) == pytest.approx(sum(told))
    (line,) = bill["lines"]
    assert (line["tenant"], line["model"], line["requests"]) == ("default", MODEL, 3)
    assert line["key"].startswith("key_")
    assert line["day"] == datetime.now(UTC).date().isoformat()
    assert line["tokens"]["output_tokens"] == 90
    assert usage(stack, "--until", line["day"])["lines"] == []
    assert usage(stack, "--tenant", "another")["total"]["requests"] == 0


def usage(stack: Stack, *arguments: str) -> Any:
    """What `millrace usage` says, with the code that these tests are of."""
    found = subprocess.run(
        [sys.executable, "-m", "broker.cli", "usage", "--json", *arguments],
        env={
            **os.environ,
            "MILLRACE_NATS": f"nats://127.0.0.1:{stack.nats_port}",
            "MILLRACE_CONFIG": str(stack.config),
        },
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    return json.loads(found.stdout)
