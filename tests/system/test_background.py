from __future__ import annotations

import asyncio
import signal
import time
from typing import Any

import pytest

from broker.bus.keyring import Keyring
from broker.v1 import job_pb2
from tests.system.answers import create, events, over, replay, text_of, upstream_calls
from tests.system.stack import MakeStack, Stack, until

SLOW = "sim/sim-tokens=60,delay_ms=50"
END = "response.completed"


async def running(client: Any, name: str) -> bool:
    return bool((await client.get(f"/v1/responses/{name}")).json()["status"] == "in_progress")


async def read_some(stack: Stack, name: str, count: int) -> list[dict[str, Any]]:
    """The first events of a stream that goes on."""
    found = []
    async with (
        stack.client() as client,
        client.stream("GET", f"/v1/responses/{name}?stream=true") as answer,
    ):
        async for event in events(answer.aiter_lines()):
            found.append(event)
            if len(found) == count:
                return found
    raise AssertionError("the stream ended early")


def said(stream: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """What a stream says, without ids and times."""
    return [
        (event["sequence_number"], event["type"], event.get("delta"), event.get("text"))
        for event in stream
    ]


async def settled(stack: Stack, charges: int) -> None:
    """That many charges and no more, and nothing left in the lane."""

    async def charged() -> bool:
        return (await stack.ledger()).total().charges == charges

    async def empty() -> bool:
        return bool((await stack.bus.js.stream_info("BG")).state.messages == 0)

    await until(empty, "the lane is empty", 30)
    await until(charged, f"{charges} charges")


async def test_a_background_response_is_queued_at_once_and_answered_once(stack: Stack) -> None:
    async with stack.client() as client:
        begun = time.monotonic()
        queued = await create(client, SLOW, background=True)
        assert time.monotonic() - begun < 1
        assert queued["status"] == "queued"
        await until(lambda: running(client, queued["id"]), "it runs")
        done = await over(client, queued["id"])
    assert done["status"] == "completed"
    assert len(text_of(done).split()) == 60
    assert done["usage"]["output_tokens"] == 60
    assert await upstream_calls(stack) == 1
    await settled(stack, 1)
    await stack.quiet()


async def test_one_whose_reader_leaves_goes_on(stack: Stack) -> None:
    body = {"model": SLOW, "input": "hi", "background": True, "stream": True}
    async with stack.client() as client:
        seen: list[dict[str, Any]] = []
        async with client.stream("POST", "/v1/responses", json=body) as answer:
            async for event in events(answer.aiter_lines()):
                seen.append(event)
                if len(seen) == 10:
                    break
        name = seen[0]["response"]["id"]
        assert (await over(client, name))["status"] == "completed"
        assert (await replay(client, name))[:10] == seen
    assert await upstream_calls(stack) == 1
    await settled(stack, 1)


@pytest.mark.parametrize("victims", [("edge",), ("worker0", "edge")])
async def test_kill_9_in_the_middle_completes_once_and_the_stream_goes_on_as_if_uninterrupted(
    make_stack: MakeStack, victims: tuple[str, ...]
) -> None:
    stack = await make_stack(workers=1)
    async with stack.client() as client:
        name = (await create(client, SLOW, background=True))["id"]
        seen = await read_some(stack, name, 15)
    for victim in victims:
        stack.processes[victim].kill(signal.SIGKILL)
    if "edge" in victims:
        stack.start_edge(0)
    if "worker0" in victims:
        stack.start_worker(1)
    await until(stack.ready, "the edge is back")
    async with stack.client() as client:
        rest = await replay(client, name, seen[-1]["sequence_number"])
        assert rest[-1]["type"] == END
        assert await replay(client, name) == seen + rest
        done = await over(client, name)
        # Word for word as where nothing was killed.
        quick = (await create(client, "sim/sim-tokens=60", background=True))["id"]
        assert said(seen + rest) == said(await replay(client, quick))
        after = await create(client, "sim/echo", "and then", previous_response_id=name)
        assert after["usage"]["input_tokens"] > 60  # with all that was said before
    assert rest[-1]["response"] == done
    assert len(text_of(done).split()) == 60
    assert await upstream_calls(stack) == (4 if "worker0" in victims else 3)
    await settled(stack, 3)


async def test_kill_9_of_a_worker_repeats_word_for_word_what_was_read_and_only_that(
    make_stack: MakeStack,
) -> None:
    """One model says the same again, the other does not; of that, one answer was read."""
    stack = await make_stack(workers=1)
    slower = SLOW.replace("50", "100")
    async with stack.client() as client:
        same, unread, read = [
            (await create(client, model, background=True))["id"]
            for model in (slower, slower + ",vary", slower + ",vary")
        ]
        heard = {name: await read_some(stack, name, 15) for name in (same, read)}
        await until(lambda: logged(stack, unread), "something is in its log")
        for name in (same, unread, read):
            assert await running(client, name)
        stack.processes["worker0"].kill(signal.SIGKILL)
        stack.start_worker(1)
        done = {name: await over(client, name) for name in (same, unread, read)}
        streams = {name: await replay(client, name) for name in (same, unread, read)}
    for name, seen in heard.items():
        assert streams[name][: len(seen)] == seen
    for name, stream in streams.items():
        assert stream[-1]["response"] == done[name]
    for name in (same, unread):
        assert done[name]["status"] == "completed"
        deltas = [event for event in streams[name] if event["type"].endswith("text.delta")]
        assert "".join(event["delta"] for event in deltas) == text_of(done[name])
        assert len(text_of(done[name]).split()) == 60
    assert (done[read]["status"], streams[read][-1]["type"]) == ("failed", "response.failed")
    assert done[read]["error"]["code"] == "server_error"
    await settled(stack, 2)


async def logged(stack: Stack, name: str) -> bool:
    info = await stack.bus.js.stream_info("EVENTS", subjects_filter=f"events.{name}")
    return bool(info.state.subjects)


async def test_it_answers_after_a_restart_of_everything(make_stack: MakeStack) -> None:
    stack = await make_stack(workers=1)
    async with stack.client() as client:
        talk = (await client.post("/v1/conversations")).json()["id"]
        first = await create(client, "sim/echo", "one", conversation=talk)
        items = (await client.get(f"/v1/conversations/{talk}/items")).json()
        assert len(items["data"]) == 2
        queued = await create(client, "sim/sim-tokens=5", background=True, stream=False)
        done = await over(client, queued["id"])
        stream = await replay(client, queued["id"])
    for name in ("worker0", "edge", "broker", "nats"):
        stack.processes[name].kill(signal.SIGKILL)
    stack.start_nats()
    stack.spawn("broker", "broker")
    stack.start_edge(0)
    stack.start_worker(1)
    await until(stack.ready, "everything is back")
    async with stack.client() as client:
        assert (await client.get(f"/v1/responses/{first['id']}")).json() == first
        assert (await client.get(f"/v1/conversations/{talk}/items")).json() == items
        assert await over(client, queued["id"]) == done
        assert await replay(client, queued["id"]) == stream
        after = await create(client, "sim/echo", "two", previous_response_id=first["id"])
        assert text_of(after) == "two"


async def test_a_running_one_is_cancelled_upstream_within_2_s(stack: Stack) -> None:
    async with stack.client() as client:
        name = (await create(client, "sim/sim-tokens=5,ttft_ms=60000", background=True))["id"]
        await until(lambda: stack.open_calls(1), "it runs")
        stream = asyncio.create_task(replay(client, name))
        cancelled = (await client.post(f"/v1/responses/{name}/cancel")).json()
        begun = time.monotonic()
        assert cancelled["status"] == "cancelled"
        await until(lambda: stack.open_calls(0), "the call is closed", 2)
        assert time.monotonic() - begun < 2
        again = (await client.post(f"/v1/responses/{name}/cancel")).json()
        assert again == cancelled
        assert (await stream)[-1]["type"] == "response.cancelled"
    await settled(stack, 0)


async def test_a_queued_one_that_is_cancelled_never_starts(make_stack: MakeStack) -> None:
    stack = await make_stack(workers=1, slots=1)
    async with stack.client() as client:
        long = (await create(client, "sim/sim-tokens=20,delay_ms=100", background=True))["id"]
        await until(lambda: running(client, long), "the slot is taken")
        queued = (await create(client, "sim/sim-tokens=3", background=True))["id"]
        cancelled = (await client.post(f"/v1/responses/{queued}/cancel")).json()
        assert cancelled["status"] == "cancelled"
        assert (await over(client, long))["status"] == "completed"
    await settled(stack, 1)
    assert await upstream_calls(stack) == 1


async def test_a_deleted_one_is_stopped_and_nothing_of_it_is_left(stack: Stack) -> None:
    async with stack.client() as client:
        name = (await create(client, "sim/sim-tokens=5000,delay_ms=20", background=True))["id"]
        await until(lambda: logged(stack, name), "something is in its log")
        answer = await client.delete(f"/v1/responses/{name}")
        assert answer.json() == {"id": name, "object": "response", "deleted": True}
        await until(lambda: stack.open_calls(0), "the call is closed", 2)
        for method, path in (
            ("GET", ""),
            ("DELETE", ""),
            ("POST", "/cancel"),
            ("GET", "?stream=1"),
        ):
            gone = await client.request(method, f"/v1/responses/{name}{path}")
            assert gone.status_code == 404, path
    await settled(stack, 0)


async def test_a_failure_that_passes_is_tried_again_without_holding_a_slot(
    make_stack: MakeStack,
) -> None:
    stack = await make_stack(workers=1, slots=1)
    async with stack.client() as client:
        model = "sim/sim-tokens=3,fault=status,status=503,first_n=2,retry_after=2"
        name = (await create(client, model, background=True))["id"]
        await until(lambda: called(stack, 1), "it failed once")
        begun = time.monotonic()
        await create(client, "sim/sim-tokens=3")
        assert time.monotonic() - begun < 1.5
        assert (await over(client, name))["status"] == "completed"
    assert await upstream_calls(stack) == 4
    await settled(stack, 2)


async def called(stack: Stack, count: int) -> bool:
    return await upstream_calls(stack) >= count


async def test_a_failure_that_stays_is_the_responses_failure(stack: Stack) -> None:
    async with stack.client() as client:
        model = "sim/sim-tokens=3,fault=status,status=400"
        name = (await create(client, model, background=True, stream=False))["id"]
        failed = await over(client, name)
        assert failed["status"] == "failed"
        assert failed["error"]["message"]
        assert (await replay(client, name))[-1]["response"] == failed
    await settled(stack, 0)


async def test_a_large_request_is_run_by_reference(stack: Stack) -> None:
    text = "word " * 300_000
    async with stack.client() as client:
        name = (await create(client, "sim/echo", text, background=True))["id"]
        done = await over(client, name)
        assert text_of(done).split() == text.split()
        items = (await client.get(f"/v1/responses/{name}/input_items")).json()["data"]
        assert items[0]["content"][0]["text"] == text
    await settled(stack, 1)


async def test_a_poison_one_goes_to_the_dead_letters_and_fails(make_stack: MakeStack) -> None:
    stack = await make_stack(workers=1)
    async with stack.client() as client:
        asked = {"background": True, "log_query_body": False}
        name = (await create(client, "sim/sim-tokens=5,ttft_ms=60000", **asked))["id"]
        for loss in range(3):
            await until(lambda: stack.open_calls(1), f"it runs, loss {loss}", 40)
            stack.processes["worker0"].kill(signal.SIGKILL)
            await until(lambda: stack.open_calls(0), "its call is closed")
            stack.start_worker(0)
        failed = await over(client, name, 40)
    assert failed["status"] == "failed"
    assert "dead letter" in failed["error"]["message"]
    assert (await stack.bus.js.stream_info("DLQ")).state.messages == 1
    letter = await stack.bus.js.get_last_msg("DLQ", "dlq.bg.sim.main")
    assert job_pb2.Job.FromString(letter.data or b"").WhichOneof("body") is None
    await settled(stack, 0)


async def test_a_worker_that_is_told_to_leave_hands_it_on(make_stack: MakeStack) -> None:
    stack = await make_stack(workers=1, limits={"drain_grace_s": 0.2})
    async with stack.client() as client:
        name = (await create(client, SLOW, background=True))["id"]
        seen = await read_some(stack, name, 10)
        stack.start_worker(1)
        await until(lambda: stack.live_workers(2), "another worker is there")
        stack.processes["worker0"].kill(signal.SIGTERM)
        begun = time.monotonic()
        done = await over(client, name)
        assert time.monotonic() - begun < 10  # not only after the lease ran out
        assert (await replay(client, name))[: len(seen)] == seen
    assert done["status"] == "completed"
    await settled(stack, 1)


async def test_background_work_leaves_room_for_interactive_work(make_stack: MakeStack) -> None:
    stack = await make_stack(workers=1, slots=8)
    async with stack.client() as client:
        names = [
            (await create(client, "sim/sim-tokens=30,delay_ms=100", background=True))["id"]
            for _ in range(20)
        ]
        await until(lambda: stack.open_calls(7), "all but the reserve is taken")
        begun = time.monotonic()
        await create(client, "sim/sim-tokens=1")
        assert time.monotonic() - begun < 1
        for name in names:
            assert (await over(client, name))["status"] == "completed"
    assert (await stack.sim_stats())["most_open"] <= 8
    await settled(stack, 21)


async def test_another_tenants_response_is_not_there(stack: Stack) -> None:
    secret, _ = await Keyring(stack.bus).create("other", tenant="other")
    theirs = {"authorization": f"Bearer {secret}"}
    async with stack.client() as client:
        mine = (await create(client, SLOW, background=True))["id"]
        for method, path in (
            ("GET", ""),
            ("GET", "?stream=true"),
            ("GET", "/input_items"),
            ("POST", "/cancel"),
            ("DELETE", ""),
        ):
            answer = await client.request(method, f"/v1/responses/{mine}{path}", headers=theirs)
            assert answer.status_code == 404, path
        body = {"model": "sim/echo", "input": "x", "previous_response_id": mine}
        answer = await client.post("/v1/responses", json=body, headers=theirs)
        assert answer.json()["error"]["code"] == "previous_response_not_found"
        assert (await over(client, mine))["status"] == "completed"
