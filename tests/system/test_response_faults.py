"""Responses while NATS is away: nobody is told of an answer that is not stored (R19)."""

from __future__ import annotations

import asyncio
import signal

from broker import keys, subjects
from broker.v1 import job_pb2, stored_pb2
from tests.system.answers import create, over, post_stream, replay, text_of, upstream_calls
from tests.system.stack import KEY, MakeStack, Stack, until

SLOW = "sim/sim-tokens=30,delay_ms=50"


async def calls_open(stack: Stack, count: int) -> bool:
    return bool((await stack.sim_stats())["open"] == count)


async def cut_off(stack: Stack, count: int) -> None:
    """Kill NATS while that many answers are under way, and wait until they have been given."""
    await until(lambda: calls_open(stack, count), "the answers are under way")
    stack.processes["nats"].kill(signal.SIGKILL)
    await until(lambda: calls_open(stack, 0), "the answers have been given")


async def test_r19_nobody_is_told_of_an_answer_before_it_is_stored(make_stack: MakeStack) -> None:
    stack = await make_stack(workers=1)
    async with stack.client() as client:
        whole = asyncio.create_task(create(client, SLOW))
        streamed = asyncio.create_task(post_stream(client, SLOW))
        await cut_off(stack, 2)
        assert not whole.done()
        assert not streamed.done()
        stack.start_nats()
        for found in (await whole, (await streamed)[-1]["response"]):
            assert found["status"] == "completed"
            assert (await client.get(f"/v1/responses/{found['id']}")).json() == found
        assert await upstream_calls(stack) == 2

        body = {"model": SLOW, "input": "hi"}
        refused = asyncio.create_task(client.post("/v1/responses", json=body))
        streamed = asyncio.create_task(post_stream(client, SLOW))
        await cut_off(stack, 2)
        answer = await refused
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "broker_unavailable")
        last = (await streamed)[-1]
        assert last["type"] == "response.failed"
        assert last["response"]["error"]["code"] == "server_error"
        stack.start_nats()
        await until(stack.ready, "NATS is back")
        name = last["response"]["id"]

        async def gone() -> bool:
            return (await client.get(f"/v1/responses/{name}")).status_code == 404

        await until(gone, "what was not stored is not there")


async def test_r19_a_background_response_sits_out_an_outage_and_is_told_once_it_is_stored(
    make_stack: MakeStack,
) -> None:
    stack = await make_stack(workers=1, limits={"max_body_bytes": 65_536})
    async with stack.client() as client:
        name = (await create(client, SLOW, background=True))["id"]
        await cut_off(stack, 1)
        stack.start_nats()
        await until(stack.ready, "NATS is back")
        done = await over(client, name)
        stream = await replay(client, name)
        assert await upstream_calls(stack) == 1
        # All that a turn goes on from counts as its body.
        long = {"model": "sim/echo", "input": "word " * 8_000, "previous_response_id": name}
        longer = {
            **long,
            "previous_response_id": (await create(client, "sim/echo", long["input"]))["id"],
        }
        assert (await client.post("/v1/responses", json=long)).status_code == 200
        answer = await client.post("/v1/responses", json=longer)
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")
    assert done["status"] == "completed"
    assert stream[-1]["response"] == done
    assert len(text_of(done).split()) == 30

    async def charged() -> bool:
        return (await stack.ledger()).total().charges == 3

    await until(charged, "each is charged once")


async def test_r19_a_worker_that_was_lost_behind_its_last_word_is_made_up_for(
    make_stack: MakeStack,
) -> None:
    """It stored the response and died: whoever gets the job tells the end, and charges once."""
    stack = await make_stack(workers=1)
    async with stack.client() as client:
        talk = (await client.post("/v1/conversations")).json()["id"]
        asked = {"background": True, "conversation": talk}
        name = (await create(client, "sim/echo", "hi", **asked))["id"]
        done = await over(client, name)
        stream = await replay(client, name)
        items = (await client.get(f"/v1/conversations/{talk}/items")).json()

        async def last() -> tuple[int, str]:
            message = await stack.bus.js.get_last_msg("EVENTS", subjects.events(name))
            logged = stored_pb2.LoggedEvents.FromString(message.data or b"")
            return message.seq or 0, logged.events[-1].WhichOneof("kind") or ""

        number, kind = await last()
        assert kind == "completed"
        await stack.bus.js.delete_msg("EVENTS", number)
        assert (await last())[1] != "completed"
        owner = keys.identifier(keys.digest(KEY))
        job = job_pb2.Job(request_id=name, attempt=1, tenant="default", owner=owner)
        job.route.CopyFrom(job_pb2.Route(provider="sim", pool="main", model="echo"))
        lane = subjects.job(subjects.BACKGROUND, "sim", "main", "echo")
        await stack.bus.js.publish(lane, job.SerializeToString())

        async def told() -> bool:
            return (await last())[1] == "completed"

        await until(told, "the end is told")
        assert await replay(client, name) == stream
        assert await over(client, name) == done
        assert (await client.get(f"/v1/conversations/{talk}/items")).json() == items
        assert len(items["data"]) == 2

    async def acked() -> bool:
        return bool((await stack.bus.js.stream_info("BG")).state.messages == 0)

    await until(acked, "the job is acked")
    assert (await stack.ledger()).total().charges == 1
    assert await upstream_calls(stack) == 1
