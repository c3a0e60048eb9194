"""An edge's gRPC server from outside: health, reflection, and what a shutdown tells its callers."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tests.system.rpc import Client, ask, connected, failure, item
from tests.system.stack import MakeStack, Stack, until

HANGS = "sim/sim-tokens=5,ttft_ms=30000"
TRICKLES = "sim/sim-tokens=600,delay_ms=50"


@pytest.fixture
async def client(stack: Stack) -> AsyncIterator[Client]:
    async with connected(stack) as client:
        yield client


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
        "broker.v1.ResponsesService",
        "broker.v1.ConversationsService",
        "broker.v1.BatchService",
        "broker.v1.FileService",
        "broker.v1.ControlService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    assert replies[1].file_descriptor_response.file_descriptor_proto


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
        unary = asyncio.ensure_future(client.infer(ask(HANGS)))
        stream = asyncio.ensure_future(client.events(ask(TRICKLES)))
        unread = client.stream(ask("sim/sim-bytes=60000000,tokens=6000"))
        await unread.read()
        bulk = client.many(None)
        await bulk.write(item("long", ask(HANGS)))
        waiting = asyncio.ensure_future(bulk.read())
        await until(lambda: stack.open_calls(4), "the long ones run")
        short = asyncio.ensure_future(client.infer(ask("sim/sim-tokens=2,ttft_ms=1000")))
        await until(lambda: stack.open_calls(5), "all run")
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
    await until(lambda: stack.open_calls(0), "no upstream call is left", 2)
    assert "Traceback" not in edge.log.read_text()
