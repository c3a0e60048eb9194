"""One answer as it is written: python -m examples.python.infer_stream PROMPT [MODEL]."""

from __future__ import annotations

import asyncio
import sys

import grpc

from broker.v1 import event_pb2, inference_service_pb2_grpc
from broker.v1 import inference_service_pb2 as pb
from examples.python.connection import METADATA, connect, problem
from examples.python.infer import question


async def main(prompt: str = "Hello", model: str = "sim/hello") -> None:
    usage: event_pb2.Usage | None = None
    async with connect() as channel:
        stub = inference_service_pb2_grpc.InferenceServiceStub(channel)
        call = stub.InferStream(
            pb.InferStreamRequest(request=question(prompt, model)), metadata=METADATA
        )
        try:
            # Leaving this loop early, or call.cancel(), cancels the work up to the provider.
            async for response in call:
                match response.event.WhichOneof("kind"):
                    case "text":
                        print(response.event.text.text, end="", flush=True)
                    case "completed":  # always the last event of a whole answer
                        usage = response.event.completed.usage
                    case _:  # started, reasoning, tool_call, choice_finished, ...
                        pass
        except grpc.aio.AioRpcError as error:
            sys.exit(f"\n{problem(error)}")
    print(f"\n-- {usage.output_tokens if usage else '?'} tokens", flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:3]))
