"""The public gRPC API against the whole system: answers, errors, deadlines, cancelling, bulk."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Awaitable
from functools import partial
from typing import Any

import grpc
import httpx
import pytest

from broker.bus.keyring import Keyring
from broker.v1 import control_service_pb2, event_pb2
from broker.v1 import inference_service_pb2 as pb
from tests.broker.translate.mistakes import MISTAKES, Mistake, chat, typed
from tests.system.rpc import (
    Client,
    Failure,
    ask,
    connected,
    failure,
    item,
    rest,
    text_of,
    told,
)
from tests.system.shared import shared_stack
from tests.system.stack import Stack, until

CANCELLED = pb.CancelInferenceResponse.OUTCOME_CANCELLED
NOT_FOUND = pb.CancelInferenceResponse.OUTCOME_NOT_FOUND
OTHER_KEY = "mr-a-key-of-another-tenant-0123456789"
# It has no tenant, like the tests' own: each of these is its own owner.
LONE_KEY = "mr-a-key-of-no-tenant-0123456789"


@pytest.fixture(scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    limits = {"slow_reader_s": 2, "streams_per_key": 8}
    async with shared_stack(tmp_path_factory, slots=512, limits=limits) as stack:
        await Keyring(stack.bus).add(OTHER_KEY, "another", tenant="another")
        await Keyring(stack.bus).add(LONE_KEY, "lone")
        yield stack


@pytest.fixture
async def client(stack: Stack) -> AsyncIterator[Client]:
    async with connected(stack) as client:
        yield client


# --- answers ---


async def test_a_stream_adds_up_to_the_whole_answer(client: Client) -> None:
    request = ask("sim/sim-tokens=20")
    whole = await client.infer(request)
    responses = [response async for response in client.stream(request)]
    assert [r.sequence for r in responses] == list(range(1, len(responses) + 1))
    assert [r.event.WhichOneof("kind") for r in responses][0::len(responses) - 1] == [
        "started",
        "completed",
    ]  # fmt: skip
    assert "".join(r.event.text.text for r in responses) == text_of(whole.answer)
    assert responses[-1].event.completed.usage == whole.answer.usage
    assert responses[0].answer_id.startswith("chatcmpl-")
    assert not any(r.answer_id for r in responses[1:])
    assert whole.answer.choices[0].finish_reason == event_pb2.FINISH_REASON_STOP
    assert (whole.answer.provider, whole.answer.model) == ("sim", "sim-tokens=20")


async def test_every_answer_has_a_request_id_and_the_callers_own_comes_back(
    client: Client,
) -> None:
    for name in ("", "mine-1"):
        call = client.infer(ask("sim/sim-tokens=1"), name)
        answer = await call
        trailer = dict(await call.trailing_metadata())
        assert trailer["x-request-id"].startswith("req_")
        assert answer.request_id == (name or trailer["x-request-id"])
        other = name and f"{name}-stream"
        responses = [r async for r in client.stream(ask("sim/sim-tokens=1"), other)]
        assert {r.request_id == other for r in responses} == {bool(other)}
        assert len({r.request_id for r in responses}) == 1


async def test_control_tells_version_models_and_load(stack: Stack, client: Client) -> None:
    more: dict[str, Any] = {"metadata": client.metadata, "timeout": 10}
    info = await client.control.GetServerInfo(control_service_pb2.GetServerInfoRequest(), **more)
    assert info.version
    assert info.max_body_bytes == 32 << 20
    models = await client.control.ListModels(control_service_pb2.ListModelsRequest(), **more)
    assert "sim/echo" in {m.id for m in models.models}
    load = await client.control.GetLoad(control_service_pb2.GetLoadRequest(), **more)
    assert (load.edge, len(load.workers)) == (info.edge, 1)


# --- errors ---


@pytest.mark.parametrize("authorization", [None, "", "Bearer ", "Bearer mr-wrong", "Basic abc"])
async def test_without_a_good_key_every_call_is_unauthenticated(
    client: Client, authorization: str | None
) -> None:
    metadata = () if authorization is None else (("authorization", authorization),)
    more: dict[str, Any] = {"metadata": metadata, "timeout": 10}
    stub, control, request = client.stub, client.control, ask("sim/sim-tokens=1")
    calls: list[Awaitable[Any]] = [
        stub.Infer(pb.InferRequest(request=request), **more),
        stub.InferStream(pb.InferStreamRequest(request=request), **more).read(),
        stub.InferMany(iter([item("a", request)]), **more).read(),
        stub.CancelInference(pb.CancelInferenceRequest(request_id="x"), **more),
        control.GetServerInfo(control_service_pb2.GetServerInfoRequest(), **more),
        control.ListModels(control_service_pb2.ListModelsRequest(), **more),
        control.GetLoad(control_service_pb2.GetLoadRequest(), **more),
        control.GetCapacity(control_service_pb2.GetCapacityRequest(), **more),
    ]
    for call in calls:
        found = await failure(call)
        assert (found.code, found.reason) == ("UNAUTHENTICATED", "invalid_api_key")
        assert found.domain == "millrace"
        assert found.metadata["http_status"] == "401"


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda m: m.name)
async def test_a_mistake_is_told_alike_over_both_wires(
    stack: Stack, client: Client, mistake: Mistake
) -> None:
    before = (await stack.sim_stats())["calls"]
    async with stack.client() as http:
        reply = await http.post(
            "/v1/chat/completions", json=chat("sim/sim-tokens=1", mistake.fields)
        )
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, mistake.param)
    request = typed("sim/sim-tokens=1", mistake.mutate)
    found = await failure(client.infer(request))
    assert (found.code, found.reason) == ("INVALID_ARGUMENT", "invalid_request")
    assert found.fields == [mistake.param] == [found.metadata["param"]]
    assert found.metadata["code"] == reply.json()["error"]["code"] == mistake.code
    results = [r async for r in client.many(iter([item("x", request)]))]
    assert Failure.of(results[0].error).fields == [mistake.param]
    assert (await stack.sim_stats())["calls"] == before


async def test_an_unknown_model_is_not_found_by_its_field(client: Client) -> None:
    for call in (client.infer(ask("sum/ecko")), client.stream(ask("sum/ecko")).read()):
        found = await failure(call)
        assert (found.code, found.reason, found.fields) == (
            "NOT_FOUND",
            "model_not_found",
            ["model"],
        )
        assert "sim/echo" in found.message


# Upstream status -> status, reason, seconds to wait.
UPSTREAM = {
    400: ("INVALID_ARGUMENT", "invalid_request", None),
    401: ("FAILED_PRECONDITION", "upstream_credentials", None),
    404: ("NOT_FOUND", "model_not_found", None),
    422: ("INVALID_ARGUMENT", "unprocessable", None),
    429: ("RESOURCE_EXHAUSTED", "upstream_rate_limit", 33.0),
    500: ("INTERNAL", "upstream_error", None),
    503: ("UNAVAILABLE", "upstream_overloaded", 33.0),
}


@pytest.mark.parametrize("status", UPSTREAM)
async def test_what_the_provider_said_survives(client: Client, status: int) -> None:
    whole, streamed = (
        f"sim/sim-fault=status,status={status},retry_after=33,key=grpc{n}" for n in (1, 2)
    )
    # Each of its own: a model that is over its limit is not asked again meanwhile.
    for model, call in (
        (whole, partial(client.infer, ask(whole))),
        (streamed, client.stream(ask(streamed)).read),
    ):
        found = await failure(call())
        assert (found.code, found.reason, found.retry_s) == UPSTREAM[status]
        assert found.metadata["upstream_status"] == str(status)
        assert found.metadata["upstream_request_id"].startswith("req_sim")
        assert found.metadata["provider"] == "sim"
        assert found.metadata["model"] == model.removeprefix("sim/")
        assert found.metadata["attempt"] == "1"
        assert found.metadata["phase"]
        assert found.message == f"simulated status {status}"


async def test_a_stream_that_breaks_ends_with_a_status_after_what_was_said(
    client: Client,
) -> None:
    said = ""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for response in client.stream(
            ask("sim/sim-tokens=10,delay_ms=20,fault=error_event,after=4")
        ):
            assert response.event.WhichOneof("kind") not in ("failed", "completed")
            said += response.event.text.text
    assert len(said.split()) == 4
    found = told(caught.value)
    assert (found.code, found.reason) == ("INTERNAL", "upstream_error")
    assert found.metadata["phase"] == "content"


async def test_long_texts_do_not_cost_the_status_its_reason(client: Client) -> None:
    """Clients refuse statuses above 8 KiB, and then say RESOURCE_EXHAUSTED."""
    for name in ("x" * 1_000, "ä" * 1_000):
        found = await failure(client.infer(ask(name)))
        assert (found.code, found.reason) == ("NOT_FOUND", "model_not_found")
        assert found.message.startswith("The model")
        results = [r async for r in client.many(iter([item("a", ask(name))]))]
        assert name in results[0].error.message


@pytest.mark.parametrize("data", [b"\xff\xff\xff", b"\x0a\x02\xff\xfe"], ids=["wire", "utf-8"])
async def test_a_message_that_cannot_be_read_is_the_callers_mistake(
    client: Client, data: bytes
) -> None:
    path = "/broker.v1.InferenceService/"
    more: dict[str, Any] = {"metadata": client.metadata, "timeout": 10}
    channel: Any = client.channel
    calls: list[Awaitable[Any]] = [
        channel.unary_unary(f"{path}Infer")(data, **more),
        channel.unary_stream(f"{path}InferStream")(data, **more).read(),
        channel.stream_stream(f"{path}InferMany")(iter([data]), **more).read(),
    ]
    for call in calls:
        found = await failure(call)
        assert (found.code, found.reason) == ("INVALID_ARGUMENT", "invalid_request")


@pytest.mark.parametrize("name", ["x" * 129, "two words", "ä"])
async def test_a_request_id_is_short_and_plain(client: Client, name: str) -> None:
    for call in (
        client.infer(ask("sim/echo"), name),
        client.stream(ask("sim/echo"), name).read(),
    ):
        assert (await failure(call)).fields == ["request_id"]


async def test_more_streams_than_a_key_may_have_are_refused(stack: Stack, client: Client) -> None:
    calls = [client.stream(ask("sim/sim-tokens=100,delay_ms=50")) for _ in range(8)]
    for call in calls:
        await call.read()
    found = await failure(client.stream(ask("sim/echo")).read())
    assert (found.code, found.reason) == ("RESOURCE_EXHAUSTED", "too_many_streams")
    async with stack.client() as http:  # they are those of both fronts together
        body = {"model": "sim/echo", "prompt": "hi", "stream": True}
        refused = await http.post("/v1/completions", json=body)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many_streams")
    for call in calls:
        call.cancel()
    await stack.quiet()
    assert await client.events(ask("sim/echo"))


# --- size ---


async def test_20_mb_work_and_40_mb_are_refused(stack: Stack, client: Client) -> None:
    def picture(size: int) -> Any:
        request = ask("sim/sim-tokens=2")
        image = request.generate.messages[0].parts.add().image
        image.inline.media_type = "image/png"
        image.inline.data = b"\x89PNG" + b"x" * size
        return request

    small = item("small", ask("sim/sim-tokens=2"))
    assert (await client.infer(picture(20_000_000))).answer.usage.output_tokens == 2
    results = [r async for r in client.many(iter([item("big", picture(20_000_000)), small]))]
    assert {r.custom_id for r in results if r.HasField("answer")} == {"big", "small"}
    for call in (
        client.infer(picture(40_000_000)),
        client.stream(picture(40_000_000)).read(),
        client.many(iter([item("big", picture(40_000_000))])).read(),
    ):
        found = await failure(call)
        assert found.code == "RESOURCE_EXHAUSTED"
        assert str(32 << 20) in found.message
    # The connection has survived.
    assert await client.infer(ask("sim/sim-tokens=2"))
    await stack.quiet()


# --- deadlines and cancelling ---

SLOW = {
    "before content": "sim/sim-tokens=5,ttft_ms=30000",
    "mid-answer": "sim/sim-tokens=600,delay_ms=50",
}


@pytest.mark.parametrize("model", SLOW.values(), ids=SLOW)
async def test_a_deadline_ends_the_call_with_a_reason_and_the_upstream_call(
    stack: Stack, client: Client, model: str
) -> None:
    for make in (client.infer, client.events):
        begun = time.monotonic()
        found = await failure(make(ask(model), timeout=1))
        assert 0.8 < time.monotonic() - begun < 1.1
        assert (found.code, found.reason) == ("DEADLINE_EXCEEDED", "deadline")
        assert found.metadata["provider"] == "sim"
        await until(lambda: stack.open_calls(0), "the upstream call was closed", 2)
    await stack.quiet()


async def test_a_deadline_in_a_bulk_call_fails_what_is_not_done_in_band(
    stack: Stack, client: Client
) -> None:
    items = [item(f"fast{n}", ask("sim/sim-tokens=1")) for n in range(5)]
    items += [item(f"slow{n}", ask(SLOW["before content"])) for n in range(5)]
    results = [r async for r in client.many(iter(items), timeout=1.5)]
    assert len(results) == 10
    for result in results:
        assert result.HasField("answer") == result.custom_id.startswith("fast")
        if result.HasField("error"):
            assert Failure.of(result.error).reason == "deadline"
    await until(lambda: stack.open_calls(0), "the upstream calls were closed", 2)


@pytest.mark.parametrize("model", SLOW.values(), ids=SLOW)
async def test_cancelling_a_call_closes_the_upstream_call(
    stack: Stack, client: Client, model: str
) -> None:
    calls = [client.infer(ask(model)), client.stream(ask(model))]
    bulk = client.many(iter([item("a", ask(model)), item("b", ask(model))]))
    # A call begins when it is awaited or read.
    waiting = [asyncio.ensure_future(c) for c in (calls[0], calls[1].read(), bulk.read())]
    await until(lambda: stack.open_calls(4), "the provider was called")
    for call in (*calls, bulk):
        call.cancel()
    await until(lambda: stack.open_calls(0), "the upstream calls were closed", 2)
    await asyncio.gather(*waiting, return_exceptions=True)
    await stack.quiet()


async def test_cancelling_a_stream_that_nobody_reads_closes_it_at_once(
    stack: Stack, client: Client
) -> None:
    call = client.stream(ask("sim/sim-bytes=60000000,tokens=6000"))
    await call.read()
    await until(lambda: stack.open_calls(1), "it runs")
    await asyncio.sleep(0.3)  # the server is stuck in a write by now
    call.cancel()
    await until(lambda: stack.open_calls(0), "the upstream call was closed", 2)
    await stack.quiet()


async def test_a_connection_that_closes_ends_its_calls_though_they_were_only_dropped(
    stack: Stack,
) -> None:
    async with connected(stack) as client:
        call = client.stream(ask("sim/sim-tokens=600,delay_ms=50"))
        await call.read()
        await until(lambda: stack.open_calls(1), "it runs")
        del call
        gc.collect()
    await until(lambda: stack.open_calls(0), "the upstream call was closed", 2)
    await stack.quiet()


async def test_who_does_not_read_a_stream_loses_it_and_the_upstream_call(
    stack: Stack, client: Client
) -> None:
    call = client.stream(ask("sim/sim-bytes=60000000,tokens=6000"))
    await call.read()
    await until(lambda: stack.open_calls(1), "it runs")
    # The limit is 2 s here.
    await until(lambda: stack.open_calls(0), "the upstream call was closed", 5)
    await stack.quiet()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await rest(call)
    assert (told(caught.value).code, told(caught.value).reason) == ("CANCELLED", "client_gone")


async def test_a_request_is_cancelled_by_its_id_from_another_connection(
    stack: Stack, client: Client
) -> None:
    model = SLOW["mid-answer"]
    async with (
        connected(stack) as second,
        connected(stack, key=OTHER_KEY) as stranger,
        connected(stack, key=LONE_KEY) as lone,
    ):
        unary = asyncio.ensure_future(client.infer(ask(model), "mine"))
        stream = client.stream(ask(model))
        given = (await stream.read()).request_id
        await until(lambda: stack.open_calls(2), "both run")
        for name in ("mine", given):
            assert await stranger.cancel(name) == NOT_FOUND
            assert await lone.cancel(name) == NOT_FOUND
        assert await stack.open_calls(2)
        for name in ("mine", given):
            assert await second.cancel(name) == CANCELLED
        await until(lambda: stack.open_calls(0), "the upstream calls were closed", 2)

        for call in (unary, rest(stream)):
            found = await failure(call)
            assert (found.code, found.reason) == ("CANCELLED", "client_gone")
        for name in ("mine", given, "never-heard-of"):
            assert await second.cancel(name) == NOT_FOUND
        assert (await failure(second.cancel(""))).fields == ["request_id"]
    await stack.quiet()


async def test_a_name_is_one_request_of_its_owner(stack: Stack, client: Client) -> None:
    asked = ask("sim/sim-tokens=2,ttft_ms=500")
    running = asyncio.ensure_future(client.infer(asked, "one"))
    await until(lambda: stack.open_calls(1), "it runs")
    for _ in ("while it runs", "afterwards"):
        found = await failure(client.infer(ask("sim/echo"), "one"))
        assert (found.code, found.reason) == ("ALREADY_EXISTS", "idempotency_conflict")
        assert found.fields == ["request_id"]
        await running
    assert (await client.infer(asked, "one")).answer == (await running).answer
    async with connected(stack, key=OTHER_KEY) as stranger:
        assert await stranger.infer(ask("sim/echo"), "one")


# --- what operators see ---


async def test_numbers_and_log_lines_tell_of_grpc_requests(stack: Stack, client: Client) -> None:
    call = client.infer(ask("sim/sim-tokens=3"))
    await call
    request_id = dict(await call.trailing_metadata())["x-request-id"]
    await failure(client.stream(ask("nobody/knows")).read())
    async with httpx.AsyncClient() as http:
        numbers = (await http.get(f"{stack.url()}/metrics")).text
    assert 'method="Infer"' in numbers
    assert 'reason="model_not_found"' in numbers
    log = stack.processes["edge"].log
    await until(lambda: request_id in log.read_text(), "the request was logged", 2)
