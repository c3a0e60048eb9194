"""An answer that outlives its reader: python -m examples.python.background PROMPT [MODEL]."""

from __future__ import annotations

import asyncio
import sys

import grpc

from broker.v1 import responses_service_pb2 as pb
from broker.v1 import responses_service_pb2_grpc, stored_pb2
from examples.python.connection import METADATA, connect, problem
from examples.python.infer import question

# So many steps are read before the connection is dropped.
READ_FIRST = 5


async def start(prompt: str, model: str) -> str:
    """Ask, and leave with the response's id: the work is in the queue from here on."""
    request = question(prompt, model)
    request.generate.responses.background = True
    async with connect() as channel:
        stub = responses_service_pb2_grpc.ResponsesServiceStub(channel)
        message = pb.CreateResponseRequest(request=request)
        answer = await stub.CreateResponse(message, metadata=METADATA, timeout=60)
    return answer.response.id


async def follow(name: str, starting_after: int, steps: int | None = None) -> int:
    """Print what is said behind a step, or a few steps of it; returns the number of the last."""
    last = starting_after
    async with connect() as channel:
        stub = responses_service_pb2_grpc.ResponsesServiceStub(channel)
        message = pb.FollowResponseRequest(response_id=name, starting_after=starting_after)
        async for answer in stub.FollowResponse(message, metadata=METADATA, timeout=600):
            last = answer.step.sequence
            if answer.step.HasField("event"):
                print(answer.step.event.text.text, end="", flush=True)
            elif last > 1:  # the last step is the response as it is kept
                status = stored_pb2.ResponseStatus.Name(answer.step.response.status)
                print(f"\n-- {status.removeprefix('RESPONSE_STATUS_').lower()}", flush=True)
            if steps is not None and last - starting_after == steps:
                break
    return last


async def main(prompt: str = "Hello", model: str = "sim/hello") -> None:
    try:
        name = await start(prompt, model)
        last = await follow(name, 0, READ_FIRST)
        # From any other process, on any edge, as often as you like.
        await follow(name, last)
    except grpc.aio.AioRpcError as error:
        sys.exit(f"\n{problem(error)}")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:3]))
