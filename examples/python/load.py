"""What is on and what it is doing: python -m examples.python.load."""

from __future__ import annotations

import asyncio
import sys

import grpc

from broker.v1 import control_service_pb2 as pb
from broker.v1 import control_service_pb2_grpc
from examples.python.connection import METADATA, connect, problem


async def main() -> None:
    async with connect() as channel:
        stub = control_service_pb2_grpc.ControlServiceStub(channel)
        try:
            server = await stub.GetServerInfo(pb.GetServerInfoRequest(), metadata=METADATA)
            models = await stub.ListModels(pb.ListModelsRequest(), metadata=METADATA)
            load = await stub.GetLoad(pb.GetLoadRequest(), metadata=METADATA)
            capacity = await stub.GetCapacity(pb.GetCapacityRequest(), metadata=METADATA)
        except grpc.aio.AioRpcError as error:
            sys.exit(str(problem(error)))
    print(f"version {server.version}, bodies up to {server.max_body_bytes >> 20} MiB")
    print("models:", *(model.id for model in models.models))
    print(f"in flight {load.in_flight}, queued {load.queued}, running {load.running}")
    for worker in load.workers:
        print(f"worker {worker.worker}: {worker.sessions} of {worker.slots} slots", flush=True)
    for model in capacity.models:
        allowed = f"of {model.slots:g} " if model.HasField("slots") else ""
        name = f"{model.provider}/{model.model or '*'}"
        print(f"{name}: {model.running} {allowed}calls, {model.rate_limited} answered 429")


if __name__ == "__main__":
    asyncio.run(main())
