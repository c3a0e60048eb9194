"""This machine's clock, for what is written down; what something took, the loop's clock tells."""

from __future__ import annotations

import time


def now() -> int:
    """Unix seconds."""
    return time.time_ns() // 1_000_000_000


def now_ms() -> int:
    """Unix milliseconds."""
    return time.time_ns() // 1_000_000
