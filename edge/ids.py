"""Ids and secrets: random bytes, fetched many at a time, and what stands before them.

A request needs three of them, and a system call costs about a microsecond.
"""

from __future__ import annotations

import os

from broker.translate.answer_ids import prefix
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


def answer_id(request: generation_pb2.Request) -> str:
    """A fresh id for the answer to a request, such as `chatcmpl-` and 32 hex digits."""
    return prefix(request) + random_bytes().hex()
