"""Random bytes for ids and secrets, fetched many at a time.

A request needs three of them, and a system call costs about a microsecond.
"""

from __future__ import annotations

import os

SIZE = 16
_FETCHED = 4096

_left: list[bytes] = []


def random_bytes() -> bytes:
    """16 bytes that nobody can guess, and that were never given out before."""
    if not _left:
        pool = os.urandom(_FETCHED)
        _left.extend(pool[start : start + SIZE] for start in range(0, _FETCHED, SIZE))
    return _left.pop()
