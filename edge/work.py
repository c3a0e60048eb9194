"""What a request asks for, as far as it decides how it is queued, waited for and shown."""

from __future__ import annotations

import msgspec

from broker import operations
from broker.v1 import generation_pb2


class Work(msgspec.Struct, frozen=True, gc=False):
    """Facts of one request.

    `lengthy`: its answer may take minutes whoever gives it; `output_tokens`: the most it asks for,
    0 = it does not say.
    """

    platform: generation_pb2.Platform
    streams: bool = False
    vectors: bool = False
    tools: bool = False
    lengthy: bool = False
    output_tokens: int = 0

    @classmethod
    def of(cls, request: generation_pb2.Request) -> Work:
        """The facts of a request; they hold on to its platform's arguments."""
        operation, generate = operations.name(request), request.generate
        tools = bool(generate.tools)
        return cls(
            request.platform,
            operations.streams(request),
            operation == operations.EMBED,
            tools,
            operation in operations.LENGTHY or (tools and operations.pauses(request)),
            max(generate.max_output_tokens, generate.max_tokens),
        )
