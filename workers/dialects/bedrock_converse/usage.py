"""Turns Converse's token counts into the hub's disjoint classes."""

from __future__ import annotations

from typing import Any

from broker.v1 import event_pb2
from workers.counts import count


def usage_of(counts: Any) -> event_pb2.Usage | None:
    """The hub's usage; None where nothing is counted.

    Cached input is counted beside `inputTokens`; thoughts are within `outputTokens`, uncounted.
    """
    if not isinstance(counts, dict) or count(counts.get("inputTokens")) is None:
        return None
    usage = event_pb2.Usage(
        input_tokens=_number(counts.get("inputTokens")),
        cache_read_tokens=_number(counts.get("cacheReadInputTokens")),
        cache_write_tokens=_number(counts.get("cacheWriteInputTokens")),
        output_tokens=_number(counts.get("outputTokens")),
    )
    details = counts.get("cacheDetails")
    for detail in details if isinstance(details, list) else ():
        if isinstance(detail, dict) and detail.get("ttl") == "1h":
            usage.cache_write_1h_tokens += _number(detail.get("inputTokens"))
    return usage


def _number(value: Any) -> int:
    return count(value) or 0
