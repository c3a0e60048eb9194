"""Cancel a running request from another connection: python -m examples.python.cancel [MODEL]."""

from __future__ import annotations

import asyncio
import sys
import uuid

import grpc

from broker.v1 import inference_service_pb2 as pb
from broker.v1 import inference_service_pb2_grpc
from examples.python.connection import METADATA, connect, problem
from examples.python.infer import question


async def cancel(request_id: str) -> str:
    """Stop a request of the same key by its id, on a connection of its own."""
    async with connect() as channel:
        stub = inference_service_pb2_grpc.InferenceServiceStub(channel)
        response = await stub.CancelInference(
            pb.CancelInferenceRequest(request_id=request_id), metadata=METADATA
        )
    return pb.CancelInferenceResponse.Outcome.Name(response.outcome)


async def main(model: str = "sim/tokens=1000,delay_ms=20") -> None:
    request_id = f"report-{uuid.uuid4().hex}"  # chosen here, so that others can name it
    ask = pb.InferStreamRequest(request_id=request_id, request=question("Write a lot", model))
    async with connect() as channel:
        stub = inference_service_pb2_grpc.InferenceServiceStub(channel)
        pieces = 0
        try:
            async for response in stub.InferStream(ask, metadata=METADATA):
                pieces += response.event.HasField("text")
                if pieces == 5:
                    print(f"after {pieces} pieces: {await cancel(request_id)}", flush=True)
        except grpc.aio.AioRpcError as error:
            print(f"the stream ended: {problem(error)}")
    print(f"once more: {await cancel(request_id)}", flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:2]))
