"""Cancels that arrive while the last answer is on its way: one end each, for good, and paid as told."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import httpx
import pytest

from tests.system.answers import create, over, replay
from tests.system.batches import CHAT, chat
from tests.system.shared import shared_stack
from tests.system.stack import Stack, until

COUNT, BATCHES, LINES = 50, 12, 4
MODEL = "sim/sim-tokens=5,ttft_ms=500"
OVER = {"completed", "cancelled", "failed", "incomplete", "expired"}
Race = Callable[[float], Awaitable[dict[str, Any]]]


@pytest.fixture(scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    async with shared_stack(tmp_path_factory, workers=2) as stack:
        yield stack


@pytest.fixture
async def client(stack: Stack) -> AsyncIterator[httpx.AsyncClient]:
    async with stack.client() as client:
        yield client


async def charges(stack: Stack) -> int:
    return (await stack.ledger()).total().charges


async def settled(stack: Stack, count: int) -> None:
    """All lanes are empty, and so much is charged, then and later."""

    async def empty() -> bool:
        lanes = [await stack.bus.js.stream_info(name) for name in ("BG", "BAT")]
        return not any(lane.state.messages for lane in lanes)

    await until(empty, "the lanes are empty", 20)
    await stack.quiet(timeout_s=20)

    async def charged() -> bool:
        return await charges(stack) >= count

    await until(charged, f"{count} charges", 20)
    assert await charges(stack) == count


async def race(one: Race, count: int, longest_s: float) -> list[dict[str, Any]]:
    """What so many were that were cancelled around their ends, each time nearer to it.

    What nobody cancels ended within `longest_s` when it was quiet; here it may take longer.
    """
    dice = random.Random(7)
    ended: list[tuple[float, dict[str, Any]]] = []
    low, high, near = 0.0, longest_s, 0
    for _ in range(6):
        after = [dice.uniform(low, high) for _ in range(count)]
        ended += zip(after, await asyncio.gather(*map(one, after)), strict=True)
        by_status: dict[str, list[float]] = {}
        for after_s, found in ended:
            by_status.setdefault(found["status"], []).append(after_s)
        assert by_status.keys() <= {"completed", "cancelled"}, by_status.keys()
        if len(by_status) == 2:
            near += 1
            low, high = sorted((min(by_status["completed"]), max(by_status["cancelled"])))
        elif "cancelled" in by_status:
            low, high = high, 2 * high
        else:
            low, high = 0.0, low or high / 2
        if near == 2:
            return [found for _, found in ended]
    raise AssertionError(f"no race: {Counter(found['status'] for _, found in ended)}")


async def test_a_response_that_is_cancelled_at_its_end_ends_once_and_is_charged_if_it_was_answered(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    async def calm() -> float:
        begun = time.monotonic()
        name = (await create(client, MODEL, background=True))["id"]
        assert (await over(client, name))["status"] == "completed"
        return time.monotonic() - begun

    async def raced(after_s: float) -> dict[str, Any]:
        name = (await create(client, MODEL, background=True))["id"]
        await asyncio.sleep(after_s)
        # Two at a time: both hear the same.
        path = f"/v1/responses/{name}/cancel"
        answers = await asyncio.gather(client.post(path), client.post(path))
        first, second = (answer.json() for answer in answers)
        assert first == second
        return dict(first)

    before = await charges(stack)
    took = await asyncio.gather(*(calm() for _ in range(COUNT)))
    ended = await race(raced, COUNT, max(took))
    answers = sum(one["status"] == "completed" for one in ended)
    await settled(stack, before + COUNT + answers)

    async def same(told: dict[str, Any]) -> None:
        name = told["id"]
        assert (await client.get(f"/v1/responses/{name}")).json() == told
        assert (await client.post(f"/v1/responses/{name}/cancel")).json() == told
        kinds = [event["type"] for event in await replay(client, name)]
        final = {f"response.{end}" for end in OVER}
        assert [kind for kind in kinds if kind in final] == [f"response.{told['status']}"]
        assert kinds[-1] in final

    await asyncio.gather(*map(same, ended))


async def test_a_batch_that_is_cancelled_at_its_end_ends_once_and_its_answers_are_charged(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    data = "".join(json.dumps(chat(n, MODEL)) + "\n" for n in range(LINES)).encode()
    form: dict[str, Any] = {"data": {"purpose": "batch"}, "files": {"file": ("in.jsonl", data)}}
    file = (await client.post("/v1/files", **form)).json()["id"]
    asked = {"input_file_id": file, "endpoint": CHAT, "completion_window": "24h"}

    async def ended(name: str) -> dict[str, Any] | None:
        found: dict[str, Any] = (await client.get(f"/v1/batches/{name}")).json()
        return found if found["status"] in OVER else None

    async def calm() -> float:
        begun = time.monotonic()
        name = (await client.post("/v1/batches", json=asked)).json()["id"]
        assert (await until(partial(ended, name), "it is over"))["status"] == "completed"
        return time.monotonic() - begun

    async def raced(after_s: float) -> dict[str, Any]:
        name = (await client.post("/v1/batches", json=asked)).json()["id"]
        await asyncio.sleep(after_s)
        answer = await client.post(f"/v1/batches/{name}/cancel")
        assert answer.status_code in {200, 409}, answer.text
        found: dict[str, Any] = await until(partial(ended, name), "it is over")
        # Who is told that it is cancelled finds it so, and who is told that it is too late too.
        assert found["status"] == {200: "cancelled", 409: "completed"}[answer.status_code]
        return found

    async def rows(file_id: str | None) -> list[str]:
        if file_id is None:
            return []
        text = (await client.get(f"/v1/files/{file_id}/content")).text
        return [json.loads(row)["custom_id"] for row in text.splitlines()]

    before = await charges(stack)
    took = await asyncio.gather(*(calm() for _ in range(BATCHES)))
    all_ended = await race(raced, BATCHES, max(took))
    answers = sum(one["request_counts"]["completed"] for one in all_ended)
    await settled(stack, before + BATCHES * LINES + answers)
    for one in all_ended:
        assert await ended(one["id"]) == one
        right, rest = await rows(one["output_file_id"]), await rows(one["error_file_id"])
        assert len(right) == one["request_counts"]["completed"]
        # One that was cancelled before its lines were counted has none.
        count = one["request_counts"]["total"]
        assert sorted(right + rest) == [f"line-{n}" for n in range(count)]
        assert count in ({LINES} if one["status"] == "completed" else {0, LINES})
        assert (await client.post(f"/v1/batches/{one['id']}/cancel")).status_code in {200, 409}
        assert await ended(one["id"]) == one
