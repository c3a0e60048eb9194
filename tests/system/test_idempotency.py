"""A request with an idempotency key runs once, whatever edge it comes to and whoever dies."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest

from broker.bus.keyring import Keyring
from broker.bus.once import OnceStore
from broker.translate.forms import KEPT, ROUTES
from broker.v1 import stored_pb2
from tests.system.shared import shared_stack
from tests.system.stack import MakeStack, Stack, until


def named(name: str) -> dict[str, str]:
    return {"idempotency-key": name}


def body(model: str, **more: Any) -> dict[str, Any]:
    return {"model": f"sim/{model}", "messages": [{"role": "user", "content": "hi"}], **more}


async def post(client: httpx.AsyncClient, name: str, asked: dict[str, Any]) -> httpx.Response:
    return await client.post("/v1/chat/completions", json=asked, headers=named(name))


@pytest.fixture(scope="module")
async def pair(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    async with shared_stack(tmp_path_factory, edges=2) as stack:
        yield stack


@pytest.fixture
async def two(pair: Stack) -> Stack:
    """Two edges, for tests that kill none; each test has names of its own."""
    await pair.quiet()
    await pair.reset_sim()
    return pair


async def calls(stack: Stack, least: int = 0) -> int:
    """Upstream calls so far; 0 below `least`."""
    found = int((await stack.sim_stats())["calls"])
    return found if found >= least else 0


async def test_the_same_request_on_two_edges_runs_once_and_is_answered_alike(two: Stack) -> None:
    asked = body("tokens=5,ttft_ms=500,vary")
    before = (await two.ledger()).total().charges
    async with two.client() as one, two.client("edge1") as other:
        answers = await asyncio.gather(
            *(post(client, "k1", asked) for client in (one, other) for _ in range(5))
        )
        assert {answer.status_code for answer in answers} == {200}
        assert len({answer.content for answer in answers}) == 1
        replayed = [answer.headers.get("idempotent-replayed") for answer in answers]
        assert sorted(map(str, replayed)) == ["None"] + ["true"] * 9
        assert await calls(two) == 1
        # What comes with a second try alone is no part of the request.
        tried = named("k1") | {"x-client-request-id": "2nd", "x-stainless-retry-count": "1"}
        again = await other.post("/v1/chat/completions", json=asked, headers=tried)
        assert again.content == answers[0].content
        # Afterwards too; a stream of it is another request.
        assert (await post(other, "k1", asked)).content == answers[0].content
        streamed = [
            (await post(client, "k2", asked | {"stream": True})).text for client in (one, other)
        ]
        assert streamed[0] == streamed[1]
        assert streamed[0].endswith("data: [DONE]\n\n")
        assert await calls(two) == 2
        refused = await post(other, "k1", body("tokens=6"))
        assert refused.status_code == 409
        assert refused.json()["error"]["code"] == "idempotency_conflict"
        for wrong in ("", "x" * 256, "caf\xe9"):
            headers = [(b"idempotency-key", wrong.encode("latin-1"))]
            refused = await one.post("/v1/chat/completions", json=asked, headers=headers)
            assert (refused.status_code, refused.json()["error"]["param"]) == (
                400,
                "Idempotency-Key",
            )
    await two.quiet()

    async def charged() -> bool:
        return (await two.ledger()).total().charges == before + 2

    await until(charged, "each answer is charged once")


async def test_what_failed_may_be_tried_again(two: Stack) -> None:
    async with two.client() as client:
        asked = body("status=400,first_n=1,key=once")
        assert (await post(client, "failed", asked)).status_code == 400

        async def again() -> bool:
            return (await post(client, "failed", asked)).status_code == 200

        await until(again, "it runs again")
        assert await calls(two) == 2


def said(line: str) -> str:
    """The text of one line of a stream."""
    if not line.startswith("data: {"):
        return ""
    return "".join(c["delta"].get("content") or "" for c in json.loads(line[6:])["choices"])


async def words(lines: AsyncIterator[str]) -> str:
    """The next text of a stream, which goes on."""
    async for line in lines:
        if text := said(line):
            return text
    raise AssertionError("it ended without another word")


async def test_a_stream_is_read_along_at_another_edge_and_outlives_its_first_caller(
    two: Stack,
) -> None:
    asked = body("tokens=60,delay_ms=50,vary") | {"stream": True}
    path = "/v1/chat/completions"
    async with two.client() as one, two.client("edge1") as other:
        async with one.stream("POST", path, json=asked, headers=named("along")) as first:
            before = first.aiter_lines()
            begun = await words(before)
            async with other.stream("POST", path, json=asked, headers=named("along")) as second:
                assert second.headers["idempotent-replayed"] == "true"
                lines = second.aiter_lines()
                text = await words(lines)
                # It is there while the first one still runs, and from its beginning.
                assert (await two.sim_stats())["open"] == 1
                assert text.startswith(begun)
                await first.aclose()
                rest = [line async for line in lines]
        assert rest[-2:] == ["data: [DONE]", ""]
        text += "".join(map(said, rest))
        again = await post(other, "along", asked)
        assert text == "".join(map(said, again.text.splitlines()))
    assert await calls(two) == 1
    await two.quiet()


async def test_the_call_upstream_ends_with_the_last_who_reads(two: Stack) -> None:
    asked = body("tokens=9000,delay_ms=20") | {"stream": True}
    path = "/v1/chat/completions"
    async with two.client() as one, two.client("edge1") as other:
        async with one.stream("POST", path, json=asked, headers=named("left")) as first:
            lines = first.aiter_lines()
            await words(lines)
            async with other.stream("POST", path, json=asked, headers=named("left")) as second:
                along = second.aiter_lines()
                await words(along)
        await two.quiet()
        # It was not answered: whoever sends it again has it run again.
        async with other.stream("POST", path, json=asked, headers=named("left")) as third:
            assert "idempotent-replayed" not in third.headers
    assert await calls(two) == 2
    await two.quiet("edge1")


async def test_a_whole_answer_outlives_its_first_caller(two: Stack) -> None:
    asked = body("tokens=3,ttft_ms=1500")
    async with two.client() as one, two.client("edge1") as other:
        leaving = asyncio.create_task(post(one, "whole", asked))
        await until(lambda: calls(two), "the first runs")
        waiting = asyncio.create_task(post(other, "whole", asked))
        await asyncio.sleep(0.5)  # a time in which it is joined, and no more than that
        leaving.cancel()
        answer = await waiting
    assert answer.status_code == 200
    assert await calls(two) == (1 if "idempotent-replayed" in answer.headers else 2)


async def test_who_reads_along_is_told_of_the_failure_and_may_try_again(two: Stack) -> None:
    asked = body("status=400,first_n=1,ttft_ms=1000,key=along")
    async with two.client() as one, two.client("edge1") as other:
        both = await asyncio.gather(post(one, "failing", asked), post(other, "failing", asked))
        assert {answer.status_code for answer in both} <= {200, 400}
        assert (await post(other, "failing", asked)).status_code == 200


async def test_the_key_of_a_dead_edge_is_taken_over(make_stack: MakeStack) -> None:
    stack = await make_stack(workers=1, edges=2)
    await stack.reset_sim()
    asked = body("tokens=3,ttft_ms=3000")
    streamed = body("tokens=900,delay_ms=20") | {"stream": True}
    path = "/v1/chat/completions"
    async with stack.client("edge1") as one, stack.client() as other, AsyncExitStack() as open_:
        lost = [asyncio.create_task(post(one, "k", asked))]
        await until(lambda: calls(stack), "the first runs")
        lost.append(asyncio.create_task(post(one, "s", streamed)))
        await until(lambda: calls(stack, 2), "the stream runs")
        along = await open_.enter_async_context(
            other.stream("POST", path, json=streamed, headers=named("s"))
        )
        waiting = asyncio.create_task(post(other, "k", asked))
        stack.processes["edge1"].kill(signal.SIGKILL)
        # Who was told nothing yet is answered by a run of its own, who was, is told the truth.
        answer = await waiting
        assert answer.status_code == 200
        assert "idempotent-replayed" not in answer.headers
        told = [line async for line in along.aiter_lines() if line.startswith("data: ")][-1]
        assert json.loads(told[6:])["error"]["code"] == "edge_lost"
        for task in lost:
            with pytest.raises(httpx.TransportError):
                await task
        assert (await post(other, "k", asked)).headers["idempotent-replayed"] == "true"
    await stack.quiet()


async def test_a_key_is_its_owners_own(two: Stack) -> None:
    ring = Keyring(two.bus)
    secrets = [
        (await ring.create("alice"))[0],
        (await ring.create("bob"))[0],
        (await ring.create("carol", tenant="acme"))[0],
        (await ring.create("dave", tenant="acme"))[0],
    ]
    asked = body("tokens=3,vary")
    ids = []
    async with two.client() as client:
        for secret in secrets:
            headers = named("k") | {"authorization": f"Bearer {secret}"}
            answer = await client.post("/v1/chat/completions", json=asked, headers=headers)
            assert answer.status_code == 200
            ids.append(answer.json()["id"])
    # Keys of one tenant are one; those without a tenant are each their own.
    assert ids[2] == ids[3]
    assert len(set(ids)) == 3
    assert await calls(two) == 3


async def test_another_file_is_another_request(two: Stack) -> None:
    async with two.client() as client:

        async def heard(sound: bytes) -> httpx.Response:
            files = {"file": ("a.wav", sound, "audio/wav")}
            return await client.post(
                "/v1/audio/transcriptions",
                files=files,
                data={"model": "sim/x"},
                headers=named("file"),
            )

        first = await heard(b"a" * 3000)
        assert first.status_code == 200
        assert (await heard(b"a" * 3000)).headers["idempotent-replayed"] == "true"
        assert (await heard(b"b" * 3000)).status_code == 409


async def test_an_answer_that_is_too_large_is_not_kept(two: Stack) -> None:
    asked = body("tokens=1000,bytes=700000")
    async with two.client() as client:
        assert (await post(client, "large", asked)).status_code == 200
        again = await post(client, "large", asked)
    assert again.status_code == 409
    assert again.json()["error"]["code"] == "answer_not_kept"
    assert "too large to be kept" in again.json()["error"]["message"]


async def test_who_comes_too_late_to_one_that_is_too_large_is_told_at_once(two: Stack) -> None:
    asked = {**body("tokens=2000,bytes=1400000,delay_ms=5"), "stream": True}
    headers = {"idempotency-key": "running"}
    async with (
        two.client() as first,
        first.stream("POST", "/v1/chat/completions", json=asked, headers=headers) as answer,
    ):
        read, pieces = 0, answer.aiter_bytes()  # let go, it would hang up
        async for piece in pieces:
            read += len(piece)
            if read > 1_200_000:
                break
        for edge in two.edges:
            async with two.client(edge) as late:
                begun = time.monotonic()
                told = await post(late, "running", asked)
                assert told.status_code == 409
                assert told.json()["error"]["code"] == "answer_not_kept"
                assert time.monotonic() - begun < 2


async def test_a_key_is_free_again_when_its_time_is_over(two: Stack) -> None:
    store = OnceStore(two.bus)
    record = stored_pb2.Once(request_hash=b"another", request_id="r", edge="edge-gone")
    async with two.client() as client:
        key = (await Keyring(two.bus).list())[0]
        revision = await store.put(key.owner, "short", record, 0, 1)
        assert revision
        assert (await post(client, "short", body("tokens=3"))).status_code == 409

        async def free() -> bool:
            return (await post(client, "short", body("tokens=3"))).status_code == 200

        await until(free, "its time is over", 15)


async def test_a_response_with_a_key_is_one_response(two: Stack) -> None:
    async with two.client() as one, two.client("edge1") as other:
        asked = {"model": "sim/tokens=4,vary", "input": "hi"}
        ids = set()
        for client in (one, other):
            answer = await client.post("/v1/responses", json=asked, headers=named("r"))
            assert answer.status_code == 200
            ids.add(answer.json()["id"])
        assert len(ids) == 1
        stored = await one.get(f"/v1/responses/{ids.pop()}")
        assert stored.status_code == 200
    assert await calls(two) == 1


async def test_a_conversation_goes_on_once_and_what_was_deleted_stays_deleted(two: Stack) -> None:
    async with two.client() as client:
        conversation = (await client.post("/v1/conversations", json={})).json()["id"]
        asked = {"model": "sim/tokens=4", "input": "hi", "conversation": conversation}
        first = await client.post("/v1/responses", json=asked, headers=named("c"))
        assert first.status_code == 200, first.text
        again = await client.post("/v1/responses", json=asked, headers=named("c"))
        assert again.json()["id"] == first.json()["id"]
        items = (await client.get(f"/v1/conversations/{conversation}/items")).json()["data"]
        assert len(items) == 2
        path = f"/v1/responses/{first.json()['id']}"
        counted = await client.post("/v1/responses/input_tokens", json=asked, headers=named("c"))
        assert counted.status_code == 409
        assert (await client.delete(path)).status_code == 200
        assert (await client.post("/v1/responses", json=asked, headers=named("c"))).is_success
        assert (await client.get(path)).status_code == 404


SOUND = {"file": ("a.wav", b"a" * 3000, "audio/wav")}
PICTURE = {"image": ("a.png", b"\x89PNG\r\n\x1a\n" + b"a" * 300, "image/png")}
HI = {"messages": [{"role": "user", "content": "hi"}]}
DRAW = {"model": "sim/draw", "prompt": "a house"}
# What is posted to each path, and the files of a form with it.
POSTED: dict[str, tuple[dict[str, Any], dict[str, Any] | None]] = {
    "/v1/chat/completions": ({"model": "sim/sim-vary"} | HI, None),
    "/v0/chat/completions": ({"model": "sim-vary@sim"} | HI, None),
    "/v1/completions": ({"model": "sim/sim-vary", "prompt": "hi"}, None),
    "/v1/embeddings": ({"model": "sim/sim-embed", "input": ["hi", "you"]}, None),
    "/v1/images/generations": (DRAW, None),
    "/v1/images/edits": (DRAW, PICTURE),
    "/v1/moderations": ({"model": "sim/sim-moderate", "input": "hi"}, None),
    "/v1/rerank": ({"model": "sim/sim-rank", "query": "hi", "documents": ["a", "b"]}, None),
    "/v2/rerank": ({"model": "sim/sim-rank", "query": "hi", "documents": ["a", "b"]}, None),
    "/v1/audio/transcriptions": ({"model": "sim/sim-x"}, SOUND),
    "/v1/audio/translations": ({"model": "sim/sim-x"}, SOUND),
    "/v1/audio/speech": ({"model": "sim/sim-x", "input": "hi", "voice": "alloy"}, None),
    "/v1/messages": ({"model": "sim/sim-vary", "max_tokens": 9} | HI, None),
    "/v1/messages/count_tokens": ({"model": "sim/sim-vary"} | HI, None),
    "/v1/responses": ({"model": "sim/sim-vary", "input": "hi"}, None),
    "/v1/responses/input_tokens": ({"model": "sim/sim-vary", "input": "hi"}, None),
}


STREAMS = {"/v1/audio/speech": {"stream_format": "sse"}}
CASES = [
    (path, more)
    for path, form in {**ROUTES, **KEPT}.items()
    if path in POSTED
    for more in ({}, *([STREAMS.get(path, {"stream": True})] if form.stream else []))
]


def test_every_route_is_in_the_table() -> None:
    # Nobody here makes variations of pictures.
    assert POSTED.keys() | {"/v1/images/variations"} == {**ROUTES, **KEPT}.keys()


@pytest.mark.parametrize(("path", "streamed"), CASES)
async def test_every_route_takes_a_key(pair: Stack, path: str, streamed: dict[str, Any]) -> None:
    plain, files = POSTED[path]
    asked = plain | streamed
    name = path + repr(streamed)

    async def send(edge: str, more: dict[str, Any]) -> httpx.Response:
        content: Any = {"data": asked | more, "files": files} if files else {"json": asked | more}
        async with pair.client(edge) as client:
            return await client.post(path, headers=named(name), **content)

    first, second = await send("edge", {}), await send("edge1", {})
    assert first.status_code == 200, first.text
    assert "idempotent-replayed" not in first.headers
    assert second.headers["idempotent-replayed"] == "true"
    assert second.content == first.content
    assert ("event-stream" in first.headers["content-type"]) == bool(streamed)
    assert second.headers["content-type"] == first.headers["content-type"]
    assert (await send("edge1", {"user": "another"})).status_code == 409
