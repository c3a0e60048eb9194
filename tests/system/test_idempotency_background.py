"""A background response with an idempotency key is one response, whoever is killed when."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from broker.bus.keyring import Keyring
from broker.bus.once import Found, OnceStore
from broker.bus.responses import Responses
from broker.v1 import generation_pb2, stored_pb2
from broker.v1 import responses_service_pb2 as pb
from broker.v1 import responses_service_pb2_grpc as pb_grpc
from tests.system.answers import events, over, text_of, upstream_calls
from tests.system.rpc import ask, bearer, failure
from tests.system.shared import shared_stack
from tests.system.stack import KEY, MakeStack, Stack, until


@pytest.fixture(scope="module")
async def pair(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    async with shared_stack(tmp_path_factory, edges=2) as stack:
        yield stack


@pytest.fixture
async def two(pair: Stack) -> Stack:
    await pair.quiet()
    await pair.reset_sim()
    return pair


def body(tokens: int, **more: Any) -> dict[str, Any]:
    model = f"sim/sim-tokens={tokens},delay_ms=20,vary"
    return {"model": model, "input": "hi", "background": True, **more}


async def post(client: httpx.AsyncClient, name: str, asked: dict[str, Any]) -> httpx.Response:
    return await client.post("/v1/responses", json=asked, headers={"idempotency-key": name})


async def found(stack: Stack, name: str) -> Found:
    """What is written down of a name of the tests' own key."""
    owner = (await Keyring(stack.bus).list())[0].owner
    return await OnceStore(stack.bus).get(owner, name)


async def write(stack: Stack, name: str, record: stored_pb2.Once) -> None:
    owner = (await Keyring(stack.bus).list())[0].owner
    revision = (await found(stack, name)).revision
    assert await OnceStore(stack.bus).put(owner, name, record, revision, 3600)


async def test_whoever_creates_it_gets_the_same_response(two: Stack) -> None:
    async with two.client() as one, two.client("edge1") as other:
        asked = body(20)
        at_once = await asyncio.gather(*(post(c, "same", asked) for c in (one, other, one, other)))
        (name,) = {answer.json()["id"] for answer in at_once}
        done = await over(one, name)
        assert done["status"] == "completed"
        later = await post(other, "same", asked)
        assert later.json() == done
        assert later.headers["idempotent-replayed"] == "true"
        assert await upstream_calls(two) == 1
        refused = await post(other, "same", body(21))
        assert (refused.status_code, refused.json()["error"]["code"]) == (
            409,
            "idempotency_conflict",
        )
        await one.delete(f"/v1/responses/{name}")
        gone = await post(other, "same", asked)
        assert (gone.status_code, "deleted" in gone.text) == (409, True)
        # What is refused takes no name.
        wrong = body(3) | {"model": "nobody/knows"}
        for asked, status in ((wrong, 400), (body(3), 200)):
            assert (await post(one, "wrong", asked)).status_code == status


async def test_its_stream_is_the_same_stream(two: Stack) -> None:
    async def read(edge: str) -> list[dict[str, Any]]:
        async with (
            two.client(edge) as client,
            client.stream(
                "POST",
                "/v1/responses",
                json=body(20, stream=True),
                headers={"idempotency-key": "stream"},
            ) as answer,
        ):
            return [event async for event in events(answer.aiter_lines())]

    streams = [*await asyncio.gather(read("edge"), read("edge1")), await read("edge1")]
    assert streams[0] == streams[1] == streams[2]
    assert streams[0][-1]["type"] == "response.completed"
    assert await upstream_calls(two) == 1


async def test_over_grpc_its_request_id_is_the_key(two: Stack) -> None:
    options = generation_pb2.ResponsesOptions(background=True)

    async def made(edge: str, tokens: int) -> pb.CreateResponseResponse:
        async with two.channel(edge) as channel:
            request = pb.CreateResponseRequest(
                request=ask(f"sim/sim-tokens={tokens}", responses=options), request_id="rpc"
            )
            stub: Any = pb_grpc.ResponsesServiceStub(channel)
            answer: pb.CreateResponseResponse = await stub.CreateResponse(
                request, metadata=bearer(KEY), timeout=30
            )
            return answer

    first, second = await made("edge", 9), await made("edge1", 9)
    assert first.response.id == second.response.id
    async with two.client() as client:
        assert (await over(client, first.response.id))["status"] == "completed"
    assert await upstream_calls(two) == 1
    assert (await failure(made("edge", 8))).code == "ALREADY_EXISTS"


async def test_what_a_lost_edge_left_undone_is_done(two: Stack) -> None:
    asked = body(5)
    async with two.client() as client:
        await over(client, (await post(client, "whole", asked)).json()["id"])
        record = (await found(two, "whole")).record
        assert record is not None
        assert record.done
        # Lost behind the job: it is not queued again.
        record.done = False
        await write(two, "whole", record)
        again = await post(client, "whole", asked)
        assert (again.json()["id"], again.json()["status"]) == (record.answer_id, "completed")
        settled = (await found(two, "whole")).record
        assert settled is not None
        assert settled.done
        assert await upstream_calls(two) == 1
        # Lost behind the name: the response is made, and it has the id that was written down.
        record.answer_id = "resp_" + 32 * "7"
        await write(two, "named", record)
        made = await post(client, "named", asked)
        assert made.json()["id"] == record.answer_id
        assert len(text_of(await over(client, record.answer_id)).split()) == 5
    assert await upstream_calls(two) == 2


async def test_kill_9_between_the_record_and_the_job_neither_loses_nor_doubles_it(
    make_stack: MakeStack,
) -> None:
    stack = await make_stack(workers=1, edges=2)
    await stack.reset_sim()
    config = (await stack.bus.js.stream_info("BG")).config
    subjects = config.subjects
    config.subjects = ["parked"]  # nobody takes jobs
    await stack.bus.js.update_stream(config)
    asked = body(8)
    async with stack.client("edge1") as one, stack.client() as other:
        lost = asyncio.create_task(post(one, "k", asked))

        async def stored() -> str:
            record = (await found(stack, "k")).record
            owner = (await Keyring(stack.bus).list())[0].owner
            name = record.answer_id if record is not None else ""
            kept = name and await Responses(stack.bus).responses.get(owner, name)
            return name if kept else ""

        name = await until(stored, "the record is there, and no job")
        stack.processes["edge1"].kill(signal.SIGKILL)
        with pytest.raises(httpx.TransportError):
            await lost
        config.subjects = subjects
        await stack.bus.js.update_stream(config)
        assert (await other.get(f"/v1/responses/{name}")).json()["status"] == "queued"
        answers = await asyncio.gather(*(post(other, "k", asked) for _ in range(3)))
        assert {answer.json()["id"] for answer in answers} == {name}
        assert (await over(other, name))["status"] == "completed"
        assert (await post(other, "k", asked)).json()["status"] == "completed"
    assert await upstream_calls(stack) == 1

    async def charged() -> bool:
        return (await stack.ledger()).total().charges == 1

    async def empty() -> bool:
        return bool((await stack.bus.js.stream_info("BG")).state.messages == 0)

    await until(empty, "every copy of the job is acked")
    await until(charged, "it is charged once")
