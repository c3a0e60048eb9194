"""The delivery port takes nobody's word: the fleet's token, and the job's own secret (R20)."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator

import grpc
import msgspec
import pytest

from broker import presence, subjects
from broker.bus.fleet import fleet_token
from broker.config import Settings
from broker.v1 import attach_service_pb2 as attach_pb
from broker.v1 import attach_service_pb2_grpc as attach_grpc
from broker.v1 import delivery_service_pb2 as pb
from broker.v1 import delivery_service_pb2_grpc as pb_grpc
from broker.v1 import job_pb2
from tests.system.stack import MakeStack, Stack, until

HELLO = pb.DeliverRequest(hello=pb.Hello(worker="stranger", provider="sim", pool="main"))


async def delivery_address(stack: Stack) -> str:
    kv = await stack.bus.kv(subjects.WORKERS)
    key = next(key for key in await kv.keys() if key.startswith("e."))
    value = (await kv.get(key)).value
    assert value is not None
    return msgspec.json.decode(value, type=presence.EdgeLease).address


async def waiting_job(stack: Stack) -> job_pb2.Job:
    """The one job in the queue, read beside its consumers."""

    async def there() -> bool:
        return not await stack.queue_empty()

    await until(there, "the job is in the queue")
    state = (await stack.bus.js.stream_info("INT")).state
    message = await stack.bus.js.get_msg("INT", seq=state.first_seq)
    assert message.data is not None
    return job_pb2.Job.FromString(message.data)


async def controls(
    call: grpc.aio.StreamStreamCall[pb.DeliverRequest, pb.DeliverResponse],
) -> AsyncIterator[pb.Control]:
    while isinstance(message := await call.read(), pb.DeliverResponse):
        for control in message.controls:
            yield control


async def test_r20_the_delivery_port_takes_only_peers_with_the_token_and_claims_with_the_secret(
    make_stack: MakeStack,
) -> None:
    stack: Stack = await make_stack(workers=1)
    stack.processes["worker0"].kill(signal.SIGSTOP)
    async with stack.client() as client:
        client.headers["idempotency-key"] = "k"
        request = asyncio.create_task(stack.chat(client, "sim/sim-tokens=2"))
        job = await waiting_job(stack)
        async with grpc.aio.insecure_channel(await delivery_address(stack)) as channel:
            stub = pb_grpc.DeliveryServiceStub(channel)
            for shown in ((), (("authorization", "Bearer wrong"),)):
                stranger = stub.Deliver(metadata=shown)
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await stranger.write(HELLO)
                    await stranger.read()
                assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED

            token = await fleet_token(stack.bus, Settings())
            metadata = (("authorization", f"Bearer {token}"),)
            other_edges = attach_grpc.AttachServiceStub(channel)
            for request_id, shown, code in (
                (job.request_id, (), grpc.StatusCode.UNAUTHENTICATED),
                (job.request_id, metadata, grpc.StatusCode.FAILED_PRECONDITION),
                ("req_unknown", metadata, grpc.StatusCode.NOT_FOUND),
            ):
                along = attach_pb.AttachRequest(request_id=request_id, request_hash=b"guessed")
                with pytest.raises(grpc.aio.AioRpcError) as kept_out:
                    await other_edges.Attach(along, metadata=shown).read()
                assert kept_out.value.code() == code
            ask = pb.FetchBodyRequest(request_id=job.request_id, attempt=1, secret=b"guessed")
            with pytest.raises(grpc.aio.AioRpcError) as unknown:
                await stub.FetchBody(ask, metadata=metadata).read()
            assert unknown.value.code() == grpc.StatusCode.NOT_FOUND

            call = stub.Deliver(metadata=metadata)
            await call.write(HELLO)
            claim = pb.Claim(request_id=job.request_id, attempt=1, secret=b"guessed")
            await call.write(pb.DeliverRequest(frames=[pb.Frame(session=1, claim=claim)]))
            claim.secret = job.claim_secret
            await call.write(pb.DeliverRequest(frames=[pb.Frame(session=2, claim=claim)]))
            answers = {}
            async for control in controls(call):
                answers[control.session] = control.WhichOneof("action")
                if len(answers) == 2:
                    break
            assert answers == {1: "kill", 2: "grant"}
            call.cancel()
        stack.processes["worker0"].kill(signal.SIGCONT)
        # The stranger's link broke, so the request runs again, where it should have run at once.
        assert (await request).status_code == 200
