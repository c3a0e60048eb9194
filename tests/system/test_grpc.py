"""The public gRPC API against the whole system: answers, errors, deadlines, cancelling, bulk."""

from __future__ import annotations

import asyncio
import gc
import signal
import time
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from broker.bus.keyring import Keyring
from broker.v1 import control_service_pb2, event_pb2
from broker.v1 import inference_service_pb2 as pb
from edge.rpc.bulk import ITEMS
from tests.edge.mistakes import MISTAKES, Mistake, chat, typed
from tests.system.rpc import (
    Client,
    Failure,
    Sender,
    ask,
    connected,
    failure,
    item,
    rest,
    text_of,
    told,
)
from tests.system.shared import shared_stack
from tests.system.stack import MakeStack, Stack, until

CANCELLED = pb.CancelInferenceResponse.OUTCOME_CANCELLED
NOT_FOUND = pb.CancelInferenceResponse.OUTCOME_NOT_FOUND
OTHER_KEY = "mr-a-key-of-another-tenant-0123456789"


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    limits = {"slow_reader_s": 2, "streams_per_key": 8}
    async with shared_stack(tmp_path_factory, slots=512, limits=limits) as stack:
        await Keyring(stack.bus).add(OTHER_KEY, "another", tenant="another")
        yield stack


@pytest.fixture
async def client(stack: Stack) -> AsyncIterator[Client]:
    async with connected(stack) as client:
        yield client


async def open_calls(stack: Stack, count: int) -> bool:
    return bool((await stack.sim_stats())["open"] == count)


async def in_flight(stack: Stack) -> int:
    return (await stack.load()).in_flight


def memory_mb(stack: Stack, name: str) -> float:
    status = Path(f"/proc/{stack.processes[name].popen.pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line[:5] == "VmRSS") / 1024


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
        responses = [r async for r in client.stream(ask("sim/sim-tokens=1"), name)]
        assert {r.request_id == name for r in responses} == {bool(name)}
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
    model = f"sim/sim-fault=status,status={status},retry_after=33"
    for call in (client.infer(ask(model)), client.stream(ask(model)).read()):
        found = await failure(call)
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
    for name in ("x" * 20_000, "ä" * 20_000):
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
        await until(lambda: open_calls(stack, 0), "the upstream call was closed", 2)
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
    await until(lambda: open_calls(stack, 0), "the upstream calls were closed", 2)


@pytest.mark.parametrize("model", SLOW.values(), ids=SLOW)
async def test_cancelling_a_call_closes_the_upstream_call(
    stack: Stack, client: Client, model: str
) -> None:
    calls = [client.infer(ask(model)), client.stream(ask(model))]
    bulk = client.many(iter([item("a", ask(model)), item("b", ask(model))]))
    # A call begins when it is awaited or read.
    waiting = [asyncio.ensure_future(c) for c in (calls[0], calls[1].read(), bulk.read())]
    await until(lambda: open_calls(stack, 4), "the provider was called")
    for call in (*calls, bulk):
        call.cancel()
    await until(lambda: open_calls(stack, 0), "the upstream calls were closed", 2)
    await asyncio.gather(*waiting, return_exceptions=True)
    await stack.quiet()


async def test_cancelling_a_stream_that_nobody_reads_closes_it_at_once(
    stack: Stack, client: Client
) -> None:
    call = client.stream(ask("sim/sim-bytes=60000000,tokens=6000"))
    await call.read()
    await until(lambda: open_calls(stack, 1), "it runs")
    await asyncio.sleep(0.3)  # the server is stuck in a write by now
    call.cancel()
    await until(lambda: open_calls(stack, 0), "the upstream call was closed", 2)
    await stack.quiet()


async def test_a_connection_that_closes_ends_its_calls_though_they_were_only_dropped(
    stack: Stack,
) -> None:
    async with connected(stack) as client:
        call = client.stream(ask("sim/sim-tokens=600,delay_ms=50"))
        await call.read()
        await until(lambda: open_calls(stack, 1), "it runs")
        del call
        gc.collect()
    await until(lambda: open_calls(stack, 0), "the upstream call was closed", 2)
    await stack.quiet()


async def test_who_does_not_read_a_stream_loses_it_and_the_upstream_call(
    stack: Stack, client: Client
) -> None:
    call = client.stream(ask("sim/sim-bytes=60000000,tokens=6000"))
    await call.read()
    await until(lambda: open_calls(stack, 1), "it runs")
    # The limit is 2 s here.
    await until(lambda: open_calls(stack, 0), "the upstream call was closed", 5)
    await stack.quiet()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await rest(call)
    assert (told(caught.value).code, told(caught.value).reason) == ("CANCELLED", "client_gone")


async def test_a_request_is_cancelled_by_its_id_from_another_connection(
    stack: Stack, client: Client
) -> None:
    model = SLOW["mid-answer"]
    async with connected(stack) as second, connected(stack, key=OTHER_KEY) as stranger:
        unary = asyncio.ensure_future(client.infer(ask(model), "mine"))
        stream = client.stream(ask(model))
        given = (await stream.read()).request_id
        await until(lambda: open_calls(stack, 2), "both run")
        for name in ("mine", given):
            assert await stranger.cancel(name) == NOT_FOUND
        assert await open_calls(stack, 2)
        for name in ("mine", given):
            assert await second.cancel(name) == CANCELLED
        await until(lambda: open_calls(stack, 0), "the upstream calls were closed", 2)

        for call in (unary, rest(stream)):
            found = await failure(call)
            assert (found.code, found.reason) == ("CANCELLED", "client_gone")
        for name in ("mine", given, "never-heard-of"):
            assert await second.cancel(name) == NOT_FOUND
        assert (await failure(second.cancel(""))).fields == ["request_id"]
    await stack.quiet()


async def test_a_name_can_be_used_again_by_others_and_later_but_not_twice_at_a_time(
    stack: Stack, client: Client
) -> None:
    running = asyncio.ensure_future(client.infer(ask("sim/sim-tokens=2,ttft_ms=1000"), "twice"))
    await until(lambda: open_calls(stack, 1), "it runs")
    found = await failure(client.infer(ask("sim/echo"), "twice"))
    assert (found.code, found.reason) == ("ALREADY_EXISTS", "idempotency_conflict")
    assert found.fields == ["request_id"]
    async with connected(stack, key=OTHER_KEY) as stranger:
        assert await stranger.infer(ask("sim/echo"), "twice")
    assert await running
    assert await client.infer(ask("sim/echo"), "twice")


# --- bulk ---


async def test_two_thousand_items_are_answered_once_each_with_failures_in_band(
    stack: Stack, client: Client
) -> None:
    await stack.reset_sim()

    def one(n: int) -> pb.InferManyRequest:
        if n % 100 == 7:
            return item(f"i{n}", ask("sim/sim-fault=status,status=400"))
        if n % 100 == 8:
            return item(f"i{n}", ask("sim/echo", temperature=3))
        if n % 100 == 9:
            return item(f"i{n}", ask("nobody/knows"))
        return item(f"i{n}", ask("sim/echo,ttft_ms=300", prompt=f"say {n}"))

    sender = Sender(map(one, range(2000)))
    results = {r.custom_id: r async for r in client.many(sender)}
    assert sender.sent == len(results) == 2000
    expected = {7: "invalid_request", 8: "invalid_request", 9: "model_not_found"}
    request_ids = set()
    for n in range(2000):
        result = results[f"i{n}"]
        reason = expected.get(n % 100)
        if reason is None:
            assert text_of(result.answer) == f"say {n}"
        else:
            found = Failure.of(result.error)
            assert found.reason == reason
            request_ids.add(found.request_id)
    assert len(request_ids) == 60
    stats = await stack.sim_stats()
    assert stats["calls"] == 2000 - 40
    assert ITEMS / 2 < stats["most_open"] <= ITEMS
    await stack.quiet()


async def test_an_item_without_an_id_is_told_so(client: Client) -> None:
    results = [r async for r in client.many(iter([item("", ask("sim/echo"))]))]
    assert Failure.of(results[0].error).fields == ["custom_id"]


async def test_a_slow_bulk_reader_slows_the_sender_and_holds_little(
    stack: Stack, client: Client
) -> None:
    """Longer than a stream's reader may stay silent: a bulk call holds no provider while it waits."""
    await stack.reset_sim()
    before = memory_mb(stack, "edge")
    model, prompt = "sim/sim-bytes=40000,tokens=4", "x" * 20_000
    sender = Sender(item(f"i{n}", ask(model, prompt)) for n in range(1500))
    call = client.many(sender)
    seen = {(await call.read()).custom_id}
    most, calls, still = 0, -1, 0
    deadline = time.monotonic() + 30
    while still < 30 and time.monotonic() < deadline:  # unchanged for 3 s
        most = max(most, await in_flight(stack))
        now = (await stack.sim_stats())["calls"]
        calls, still = now, still + 1 if now == calls else 0
        await asyncio.sleep(0.1)
    assert still == 30
    assert most <= ITEMS
    assert await in_flight(stack) == 0
    assert calls < 1000
    assert sender.sent < 1500
    assert memory_mb(stack, "edge") - before < 100
    seen |= {result.custom_id for result in await rest(call) if result.HasField("answer")}
    assert len(seen) == 1500
    await stack.quiet()


async def test_large_items_of_a_bulk_call_wait_for_each_other(stack: Stack, client: Client) -> None:
    """64 MiB of requests at a time: four of 20 MB each do not run together."""
    await stack.reset_sim()

    def big(n: int) -> pb.InferManyRequest:
        request = ask("sim/sim-tokens=1,ttft_ms=300")
        image = request.generate.messages[0].parts.add().image
        image.inline.media_type = "image/png"
        image.inline.data = bytes(20_000_000)
        return item(f"i{n}", request)

    results = [r async for r in client.many(Sender(map(big, range(4))))]
    assert len({r.custom_id for r in results if r.HasField("answer")}) == 4
    assert (await stack.sim_stats())["most_open"] <= 3
    await stack.quiet()


async def test_a_key_that_is_revoked_while_a_bulk_call_runs_is_of_no_more_use(
    stack: Stack,
) -> None:
    keyring = Keyring(stack.bus)
    secret, record = await keyring.create("for one call")
    async with connected(stack, key=secret) as client:
        call = client.many(None)
        await call.write(item("a", ask("sim/echo")))
        assert (await call.read()).HasField("answer")
        await keyring.revoke(record.id)

        async def refused() -> bool:
            await call.write(item("b", ask("sim/echo")))
            result = await call.read()
            return result.HasField("error") and Failure.of(result.error).reason == "invalid_api_key"

        await until(refused, "items are refused", 5)
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        assert (await call.code()) == grpc.StatusCode.OK


# --- the standard services ---


async def health(client: Client, service: str) -> int:
    stub = health_pb2_grpc.HealthStub(client.channel)
    reply = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
    return int(reply.status)


SERVICES = ("", "broker.v1.InferenceService", "broker.v1.ControlService")
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def test_health_is_told_per_service_and_without_a_key(client: Client) -> None:
    assert [await health(client, name) for name in SERVICES] == [SERVING] * 3
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await health(client, "broker.v1.Unknown")
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


async def test_reflection_lists_the_services_and_their_types(client: Client) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(client.channel)
    asked = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="broker.v1.InferenceService"),
    ]
    replies = [reply async for reply in stub.ServerReflectionInfo(iter(asked), timeout=10)]
    names = {service.name for service in replies[0].list_services_response.service}
    assert names == {
        "broker.v1.InferenceService",
        "broker.v1.ControlService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    assert replies[1].file_descriptor_response.file_descriptor_proto


# --- the life of an edge ---


async def test_inference_is_unhealthy_without_a_worker(make_stack: MakeStack) -> None:
    stack = await make_stack(workers=1)
    async with connected(stack) as client:
        worker = stack.processes["worker0"]
        worker.kill(signal.SIGTERM)

        async def says(*statuses: int) -> bool:
            return [await health(client, name) for name in SERVICES] == list(statuses)

        await until(lambda: says(NOT_SERVING, NOT_SERVING, SERVING), "health says so", 15)
        worker.popen.wait(10)
        stack.start_worker(0)
        await until(lambda: says(SERVING, SERVING, SERVING), "health recovers", 15)


async def test_sigterm_lets_short_calls_finish_and_tells_the_others_why(
    make_stack: MakeStack,
) -> None:
    stack = await make_stack(workers=1, limits={"drain_grace_s": 2})
    edge = stack.processes["edge"]
    async with connected(stack) as client:
        short = asyncio.ensure_future(client.infer(ask("sim/sim-tokens=2,ttft_ms=1000")))
        unary = asyncio.ensure_future(client.infer(ask(SLOW["before content"])))
        stream = asyncio.ensure_future(client.events(ask(SLOW["mid-answer"])))
        unread = client.stream(ask("sim/sim-bytes=60000000,tokens=6000"))
        await unread.read()
        bulk = client.many(None)
        await bulk.write(item("long", ask(SLOW["before content"])))
        waiting = asyncio.ensure_future(bulk.read())
        await until(lambda: open_calls(stack, 5), "all run")
        watch = health_pb2_grpc.HealthStub(client.channel).Watch(
            health_pb2.HealthCheckRequest(service=SERVICES[1])
        )
        assert (await watch.read()).status == SERVING
        edge.kill(signal.SIGTERM)
        assert (await asyncio.wait_for(watch.read(), 1)).status == NOT_SERVING
        for found in (
            await failure(client.infer(ask("sim/echo"))),
            await failure(client.stream(ask("sim/echo")).read()),
        ):
            assert (found.code, found.reason) == ("UNAVAILABLE", "draining")
            assert found.retry_s == 1
        assert (await short).answer.usage.output_tokens == 2
        for call in (unary, stream, waiting):
            found = await failure(call)
            assert (found.code, found.reason) == ("UNAVAILABLE", "draining")
        await until(lambda: not edge.running, "the edge has left", 10)
        assert edge.popen.returncode == 0
    await until(lambda: open_calls(stack, 0), "no upstream call is left", 2)
    assert "Traceback" not in edge.log.read_text()
