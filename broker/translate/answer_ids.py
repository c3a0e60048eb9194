"""What the ids of answers begin with, by the front end that asked."""

from __future__ import annotations

from broker import operations
from broker.v1 import generation_pb2

_BY_SURFACE = {
    generation_pb2.SURFACE_RESPONSES: "resp_",
    generation_pb2.SURFACE_MESSAGES: "msg_",
}
_BY_OPERATION = {
    operations.COMPLETE: "cmpl-",
    operations.MODERATE: "modr-",
    operations.RERANK: "rerank-",
}


def prefix(request: generation_pb2.Request) -> str:
    """The beginning of the id of the answer to a request, such as `chatcmpl-`."""
    operation = request.WhichOneof("operation") or ""
    if operation == operations.GENERATE:
        return _BY_SURFACE.get(request.generate.surface, "chatcmpl-")
    return _BY_OPERATION.get(operation, f"{operation}-")
