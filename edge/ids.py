"""Ids and secrets: random bytes, fetched many at a time, and what stands before them.

A request needs three of them, and a system call costs about a microsecond.
"""

from __future__ import annotations

import os

from broker import operations
from broker.v1 import generation_pb2

SIZE = 16
_FETCHED = 4096

_left: list[bytes] = []


def random_bytes() -> bytes:
    """16 bytes that nobody can guess, and that were never given out before."""
    if not _left:
        pool = os.urandom(_FETCHED)
        _left.extend(pool[start : start + SIZE] for start in range(0, _FETCHED, SIZE))
    return _left.pop()


# What the ids of answers begin with, by the front end that asked.
_BY_SURFACE = {
    generation_pb2.SURFACE_RESPONSES: "resp_",
    generation_pb2.SURFACE_MESSAGES: "msg_",
}
_BY_OPERATION = {
    operations.COMPLETE: "cmpl-",
    operations.MODERATE: "modr-",
    operations.RERANK: "rerank-",
}


def answer_id(request: generation_pb2.Request) -> str:
    """A fresh id for the answer to a request, such as `chatcmpl-` and 32 hex digits."""
    operation = request.WhichOneof("operation") or ""
    if operation == operations.GENERATE:
        prefix = _BY_SURFACE.get(request.generate.surface, "chatcmpl-")
    else:
        prefix = _BY_OPERATION.get(operation, f"{operation}-")
    return prefix + random_bytes().hex()
