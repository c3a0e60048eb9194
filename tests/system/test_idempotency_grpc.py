"""Over gRPC a request with an id of its caller's runs once, whatever edge it comes to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import httpx
import pytest

from broker.v1 import generation_pb2
from broker.v1 import inference_service_pb2 as pb
from broker.v1 import inference_service_pb2_grpc as pb_grpc
from broker.v1 import responses_service_pb2 as kept_pb
from broker.v1 import responses_service_pb2_grpc as kept_grpc
from tests.system.rpc import Failure, ask, bearer, failure
from tests.system.shared import shared_stack
from tests.system.stack import KEY, Stack, until

METHODS = ("Infer", "InferStream", "CreateResponse", "StreamResponse")


@pytest.fixture(scope="module")
async def pair(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    async with shared_stack(tmp_path_factory, edges=2) as stack:
        yield stack


@pytest.fixture
async def two(pair: Stack) -> Stack:
    await pair.quiet()
    await pair.reset_sim()
    return pair


class Client:
    """One connection to an edge."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.stub = pb_grpc.InferenceServiceStub(channel)
        self._kept = kept_grpc.ResponsesServiceStub(channel)

    def call(self, method: str, request: generation_pb2.Request, name: str) -> Any:
        stub: Any = self.stub if method.startswith("Infer") else self._kept
        module: Any = pb if method.startswith("Infer") else kept_pb
        message = getattr(module, f"{method}Request")(request=request, request_id=name)
        return getattr(stub, method)(message, metadata=bearer(KEY), timeout=60)

    async def answer(
        self, method: str, request: generation_pb2.Request, name: str
    ) -> tuple[str, bool]:
        """What comes of a request, in comparable form, and whether it is another one's."""
        call = self.call(method, request, name)
        if "Stream" in method:
            shown = ""
            async for response in call:
                step = response if method == "InferStream" else response.step
                shown += step.event.text.text or repr(getattr(step, "response", ""))
        else:
            whole = await call
            shown = repr(whole.answer if method == "Infer" else whole.response)
        trailer = dict(await call.trailing_metadata())
        assert trailer["x-request-id"].startswith("req_")
        return shown, trailer.get("idempotent-replayed") == "true"

    async def many(self, *items: pb.InferManyRequest) -> dict[str, pb.InferManyResponse]:
        call = self.stub.InferMany(iter(items), metadata=bearer(KEY), timeout=60)
        return {result.custom_id: result async for result in call}


@pytest.fixture
async def clients(two: Stack) -> AsyncIterator[list[Client]]:
    async with two.channel("edge") as one, two.channel("edge1") as other:
        yield [Client(one), Client(other)]


async def calls(stack: Stack) -> int:
    return int((await stack.sim_stats())["calls"])


@pytest.mark.parametrize("method", METHODS)
async def test_the_same_request_on_two_edges_runs_once(
    two: Stack, clients: list[Client], method: str
) -> None:
    asked = ask("sim/sim-tokens=8,ttft_ms=300,delay_ms=50,vary")
    at = [clients[0], clients[1], clients[0]]
    found = [
        *await asyncio.gather(*(client.answer(method, asked, f"k-{method}") for client in at)),
        *[await client.answer(method, asked, f"k-{method}") for client in clients],
    ]
    assert len({shown for shown, _ in found}) == 1
    assert sorted(replayed for _, replayed in found) == [False, True, True, True, True]
    assert await calls(two) == 1
    other = ask("sim/sim-tokens=9")
    for another, name in ((method, other), (METHODS[METHODS.index(method) - 1], asked)):
        call = clients[1].call(another, name, f"k-{method}")
        refused = await failure(call.read() if "Stream" in another else call)
        assert (refused.code, refused.reason, refused.fields) == (
            "ALREADY_EXISTS",
            "idempotency_conflict",
            ["request_id"],
        )


async def test_items_of_a_bulk_call_run_once_each(two: Stack, clients: list[Client]) -> None:
    def item(custom_id: str, tokens: int, name: str = "") -> pb.InferManyRequest:
        asked = ask(f"sim/sim-tokens={tokens},ttft_ms=200,vary")
        return pb.InferManyRequest(custom_id=custom_id, request=asked, request_id=name)

    items = [item("a", 2, "item-a"), item("b", 3, "item-b"), item("same", 2, "item-a")]
    items += [item("free", 4), item("wrong", 5, "not printable \n")]
    found = await asyncio.gather(*(client.many(*items) for client in clients))
    for name in ("a", "b"):
        assert found[0][name].answer.id == found[1][name].answer.id
    of_a = [results[name] for results in found for name in ("a", "same")]
    assert len({result.answer.id for result in of_a}) == 1
    assert sorted(result.replayed for result in of_a) == [False, True, True, True]
    assert found[0]["free"].answer.id != found[1]["free"].answer.id
    assert {Failure.of(results["wrong"].error).code for results in found} == {"INVALID_ARGUMENT"}
    assert await calls(two) == 2 + 2
    # A call of its own takes what an item was answered.
    asked = ask("sim/sim-tokens=2,ttft_ms=200,vary")
    shown, replayed = await clients[1].answer("Infer", asked, "item-a")
    assert (shown, replayed) == (repr(of_a[0].answer), True)
    refused = (await clients[0].many(item("a", 9, "item-a")))["a"]
    assert Failure.of(refused.error).code == "ALREADY_EXISTS"


async def test_whoever_reads_along_is_told_of_a_cancellation(
    two: Stack, clients: list[Client]
) -> None:
    asked = ask("sim/sim-tokens=2,ttft_ms=60000")
    first = asyncio.ensure_future(clients[0].answer("Infer", asked, "cancelled"))
    await until(lambda: calls(two), "it runs")
    along = asyncio.ensure_future(clients[1].answer("Infer", asked, "cancelled"))
    cancel = pb.CancelInferenceRequest(request_id="cancelled")

    async def held() -> bool:
        return await attached(two) == 1

    await until(held, "the other edge reads along")
    await clients[0].stub.CancelInference(cancel, metadata=bearer(KEY), timeout=10)
    for call in (first, along):
        assert (await failure(call)).code == "CANCELLED"
    assert await calls(two) == 1
    assert await attached(two) == 0
    await two.quiet()


async def attached(stack: Stack) -> float:
    """How many requests read along through the second edge."""
    async with httpx.AsyncClient() as http:
        lines = (await http.get(f"{stack.url('edge1')}/metrics")).text.splitlines()
    return float(next(x for x in lines if x.startswith("millrace_attached_")).split()[-1])


async def test_keys_of_both_front_ends_are_one(two: Stack, clients: list[Client]) -> None:
    await clients[0].answer("CreateResponse", ask("sim/sim-tokens=3,vary"), "both")
    async with two.client("edge1") as http:
        body = {"model": "sim/sim-tokens=4", "input": "hello"}
        refused = await http.post("/v1/responses", json=body, headers={"idempotency-key": "both"})
    assert refused.status_code == 409
    assert await calls(two) == 1
