"""Many requests over one call, results as they are done: python -m examples.python.infer_many FILE.

FILE has one prompt a line. It is read as fast as the server takes requests, never all at once.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import grpc

from broker.v1 import inference_service_pb2 as pb
from broker.v1 import inference_service_pb2_grpc
from examples.python.connection import METADATA, Problem, connect, problem
from examples.python.infer import question


async def requests(prompts: Iterable[str], model: str) -> AsyncIterator[pb.InferManyRequest]:
    """One request a prompt; gRPC asks for the next when there is room for it."""
    for number, prompt in enumerate(prompts, 1):
        request = question(prompt.rstrip("\n"), model)
        yield pb.InferManyRequest(custom_id=f"line-{number}", request=request)


def text_of(answer: pb.Answer) -> str:
    return "".join(part.text.text for part in answer.choices[0].message.parts)


async def main(prompts: Iterable[str], model: str = "sim/echo") -> None:
    done = failed = 0
    async with connect() as channel:
        stub = inference_service_pb2_grpc.InferenceServiceStub(channel)
        try:
            async for result in stub.InferMany(requests(prompts, model), metadata=METADATA):
                # One request that fails does not end the call: its error is its result.
                if result.HasField("error"):
                    print(f"{result.custom_id}\t{Problem.of(result.error)}")
                    failed += 1
                else:
                    print(f"{result.custom_id}\t{text_of(result.answer)}")
                    done += 1
        except grpc.aio.AioRpcError as error:
            sys.exit(str(problem(error)))
    print(f"-- {done} answered, {failed} failed", flush=True)


if __name__ == "__main__":
    with Path(sys.argv[1]).open(encoding="utf-8") as lines:
        asyncio.run(main(lines, *sys.argv[2:3]))
