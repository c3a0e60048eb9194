"""A batch whose edge and worker are killed: one result a line, one charge, the same answers."""

from __future__ import annotations

import json
from typing import Any

from tests.system.batches import CHAT, chat
from tests.system.lines import shorten_leases
from tests.system.stack import MakeStack, until

LINES = 1500


async def test_a_batch_survives_kill_9_of_the_edge_that_made_it_and_of_a_worker(
    make_stack: MakeStack,
) -> None:
    stack = await make_stack(workers=2, edges=2, slots=16)
    await shorten_leases(stack)
    data = "".join(json.dumps(chat(n, "sim/echo,ttft_ms=200")) + "\n" for n in range(LINES))
    async with stack.client() as client:
        form = {"file": ("in.jsonl", data.encode())}
        file = (await client.post("/v1/files", data={"purpose": "batch"}, files=form)).json()
        asked = {"input_file_id": file["id"], "endpoint": CHAT, "completion_window": "24h"}
        made = await client.post("/v1/batches", json=asked, headers={"idempotency-key": "mine"})
        batch = made.json()["id"]
    stack.processes["edge"].kill()
    async with stack.client("edge1") as client:

        async def look() -> dict[str, Any]:
            found: dict[str, Any] = (await client.get(f"/v1/batches/{batch}")).json()
            return found

        async def some() -> bool:
            done: int = (await look())["request_counts"]["completed"]
            return done > LINES / 4

        async def over() -> bool:
            return str((await look())["status"]) == "completed"

        await until(some, "lines ended", 60)
        stack.processes["worker0"].kill()
        # What is asked again is what was made, and runs once.
        again = await client.post("/v1/batches", json=asked, headers={"idempotency-key": "mine"})
        assert again.json()["id"] == batch
        await until(over, "the batch is over", 90)
        record = await look()
        counts = record["request_counts"]
        assert (counts["total"], counts["completed"], counts["failed"]) == (LINES, LINES, 0)
        output = await client.get(f"/v1/files/{record['output_file_id']}/content")
        results = await client.get(f"/v1/batches/{batch}/results")
    assert results.content == output.content
    rows = [json.loads(row) for row in output.text.splitlines()]
    answers = [(row["custom_id"], _text(row)) for row in rows]
    assert answers == [(f"line-{n}", f"say {n}") for n in range(LINES)]
    # Only what the lost worker was running was asked for again.
    assert (await stack.sim_stats())["calls"] <= LINES + stack.slots
    assert (await stack.ledger()).total().charges == LINES


def _text(row: dict[str, Any]) -> str:
    text: str = row["response"]["body"]["choices"][0]["message"]["content"]
    return text
