"""One question, one whole answer: python -m examples.python.infer PROMPT [MODEL]."""

from __future__ import annotations

import asyncio
import sys

import grpc

from broker.v1 import content_pb2, generation_pb2, inference_service_pb2_grpc
from broker.v1 import inference_service_pb2 as pb
from examples.python.connection import METADATA, connect, problem


def question(prompt: str, model: str) -> generation_pb2.Request:
    """A request with one user message."""
    return generation_pb2.Request(
        generate=generation_pb2.GenerateRequest(
            model=model,
            messages=[
                content_pb2.Message(
                    role=content_pb2.ROLE_USER,
                    parts=[content_pb2.Part(text=content_pb2.Text(text=prompt))],
                )
            ],
        )
    )


async def main(prompt: str = "Hello", model: str = "sim/hello") -> None:
    async with connect() as channel:
        stub = inference_service_pb2_grpc.InferenceServiceStub(channel)
        try:
            response = await stub.Infer(
                pb.InferRequest(request=question(prompt, model)), metadata=METADATA, timeout=60
            )
        except grpc.aio.AioRpcError as error:
            sys.exit(str(problem(error)))
    answer = response.answer
    print("".join(part.text.text for part in answer.choices[0].message.parts))
    print(f"-- {answer.provider}/{answer.model}, {answer.usage.output_tokens} tokens", flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:3]))
