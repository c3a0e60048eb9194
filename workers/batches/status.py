"""google.rpc.Status as rows and batches tell of it: numbers there, HTTP and words in answers; pure.

Source: https://github.com/googleapis/googleapis/blob/master/google/rpc/code.proto.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import orjson

CANCELLED = 1
# code -> (status, its word).
_CODES = {
    1: (499, "CANCELLED"),
    2: (500, "UNKNOWN"),
    3: (400, "INVALID_ARGUMENT"),
    4: (504, "DEADLINE_EXCEEDED"),
    5: (404, "NOT_FOUND"),
    6: (409, "ALREADY_EXISTS"),
    7: (403, "PERMISSION_DENIED"),
    8: (429, "RESOURCE_EXHAUSTED"),
    9: (400, "FAILED_PRECONDITION"),
    10: (409, "ABORTED"),
    11: (400, "OUT_OF_RANGE"),
    12: (501, "UNIMPLEMENTED"),
    13: (500, "INTERNAL"),
    14: (503, "UNAVAILABLE"),
    15: (500, "DATA_LOSS"),
    16: (401, "UNAUTHENTICATED"),
}
# What a whole batch may fail of for a while: quota, internal, unavailable.
PASSING = frozenset({8, 13, 14})
_STATUSES = range(400, 600)


class Status(msgspec.Struct):
    """That of a whole batch."""

    code: int = 0
    message: str = ""


def failed(told: Mapping[str, Any]) -> tuple[int, bytes]:
    """The status and the body that the call of a line would have been answered with."""
    code = told.get("code")
    status, word = _CODES.get(code, _CODES[2]) if isinstance(code, int) else _CODES[2]
    if isinstance(code, int) and code in _STATUSES:
        status, word = code, str(told.get("status") or "")
    said = {"code": status, "message": str(told.get("message", "")), "status": word}
    return status, orjson.dumps({"error": said})
