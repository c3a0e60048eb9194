"""A gRPC client for tests: typed requests in, whole failures out."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from broker.v1 import (
    content_pb2,
    control_service_pb2_grpc,
    event_pb2,
    generation_pb2,
    inference_service_pb2_grpc,
)
from broker.v1 import inference_service_pb2 as pb
from tests.system.stack import KEY, Stack

SIZES = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


def bearer(key: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {key}"),)


def ask(model: str, prompt: str = "hello", **fields: Any) -> generation_pb2.Request:
    """One user message to a model."""
    generate = generation_pb2.GenerateRequest(model=model, **fields)
    generate.messages.add(role=content_pb2.ROLE_USER).parts.add().text.text = prompt
    return generation_pb2.Request(generate=generate)


def text_of(answer: pb.Answer) -> str:
    return "".join(p.text.text for p in answer.choices[0].message.parts)


@dataclass
class Failure:
    """A google.rpc.Status, unpacked."""

    code: str
    message: str
    reason: str = ""
    domain: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    retry_s: float | None = None
    fields: list[str] = field(default_factory=list)
    request_id: str = ""

    @classmethod
    def of(cls, status: status_pb2.Status) -> Failure:
        code = next(c.name for c in grpc.StatusCode if c.value[0] == status.code)
        failure = cls(code, status.message)
        for detail in status.details:
            info = error_details_pb2.ErrorInfo()
            retry = error_details_pb2.RetryInfo()
            bad = error_details_pb2.BadRequest()
            request = error_details_pb2.RequestInfo()
            if detail.Unpack(info):
                failure.reason, failure.domain = info.reason, info.domain
                failure.metadata = dict(info.metadata)
            elif detail.Unpack(retry):
                failure.retry_s = retry.retry_delay.ToNanoseconds() / 1e9
            elif detail.Unpack(bad):
                failure.fields = [violation.field for violation in bad.field_violations]
            elif detail.Unpack(request):
                failure.request_id = request.request_id
        return failure


async def failure(call: Awaitable[Any]) -> Failure:
    """How a call fails; it has to."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return told(caught.value)


def told(error: grpc.aio.AioRpcError) -> Failure:
    """What an error tells, read as grpcio-status reads it."""
    status = rpc_status.from_call(cast("Any", error))
    if status is None:
        return Failure(error.code().name, error.details() or "")
    found = Failure.of(status)
    assert (found.code, found.message) == (error.code().name, error.details())
    trailer = dict(error.trailing_metadata() or ())
    assert trailer["x-request-id"] == found.request_id
    return found


class Client:
    """One connection."""

    def __init__(self, channel: grpc.aio.Channel, key: str) -> None:
        self.channel = channel
        self.metadata = bearer(key)
        self.stub = inference_service_pb2_grpc.InferenceServiceStub(channel)
        self.control = control_service_pb2_grpc.ControlServiceStub(channel)

    def infer(self, request: generation_pb2.Request, name: str = "", **more: Any) -> Any:
        message = pb.InferRequest(request_id=name, request=request)
        return self.stub.Infer(message, metadata=self.metadata, **{"timeout": 60, **more})

    def stream(self, request: generation_pb2.Request, name: str = "", **more: Any) -> Any:
        message = pb.InferStreamRequest(request_id=name, request=request)
        return self.stub.InferStream(message, metadata=self.metadata, **{"timeout": 60, **more})

    async def events(self, request: generation_pb2.Request, **more: Any) -> list[event_pb2.Event]:
        return [response.event async for response in self.stream(request, **more)]

    def many(self, items: Any, **more: Any) -> Any:
        return self.stub.InferMany(items, metadata=self.metadata, **{"timeout": 60, **more})

    async def cancel(self, request_id: str) -> int:
        message = pb.CancelInferenceRequest(request_id=request_id)
        reply = await self.stub.CancelInference(message, metadata=self.metadata, timeout=10)
        return int(reply.outcome)


@contextlib.asynccontextmanager
async def connected(stack: Stack, edge: str = "edge", key: str = KEY) -> AsyncIterator[Client]:
    """A connection of its own, not shared with others of this process."""
    target = f"127.0.0.1:{stack.edges[edge][1]}"
    options = [*SIZES, ("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(target, options=options) as channel:
        yield Client(channel, key)


async def rest(call: Any) -> list[Any]:
    """What is left to read of a call that was read before."""
    found = []
    while (response := await call.read()) is not grpc.aio.EOF:
        found.append(response)
    return found


def item(custom_id: str, request: generation_pb2.Request) -> pb.InferManyRequest:
    return pb.InferManyRequest(custom_id=custom_id, request=request)


class Sender:
    """Items of a bulk call, and how many of them gRPC has taken so far."""

    def __init__(self, items: Iterator[pb.InferManyRequest]) -> None:
        self._items = items
        self.sent = 0

    async def __aiter__(self) -> AsyncIterator[pb.InferManyRequest]:
        for one in self._items:
            yield one
            self.sent += 1
