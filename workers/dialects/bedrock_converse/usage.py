"""Turns Converse's token counts into the hub's disjoint classes."""

from __future__ import annotations

from typing import Any

from broker.v1 import event_pb2


def usage_of(counts: Any) -> event_pb2.Usage | None:
    """The hub's usage; None where nothing is counted.

    Cached input is counted beside `inputTokens`; thoughts are within `outputTokens`, uncounted.
    """
    if not isinstance(counts, dict) or "inputTokens" not in counts:
        return None
    usage = event_pb2.Usage(
        input_tokens=_number(counts.get("inputTokens")),
        cache_read_tokens=_number(counts.get("cacheReadInputTokens")),
        cache_write_tokens=_number(counts.get("cacheWriteInputTokens")),
        output_tokens=_number(counts.get("outputTokens")),
    )
    for detail in counts.get("cacheDetails") or ():
        if isinstance(detail, dict) and detail.get("ttl") == "1h":
            usage.cache_write_1h_tokens += _number(detail.get("inputTokens"))
    return usage


def _number(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0
