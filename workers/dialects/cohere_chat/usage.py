"""Turns Cohere's token counts into the hub's disjoint classes."""

from __future__ import annotations

from typing import Any

from broker.v1 import event_pb2
from workers.counts import count


def usage_of(reported: Any) -> event_pb2.Usage | None:
    """The hub's usage; None where nothing is counted.

    There are two counters, both may be missing, and both may hold floats. `tokens` counts what the
    model read with its prompt template around it, `billed_units` leaves that out but counts the
    images that `tokens` keeps apart: the larger one misses less.
    """
    if not isinstance(reported, dict):
        return None
    counted, billed = _object(reported, "tokens"), _object(reported, "billed_units")
    if not counted and not billed:
        return None
    read, written = (
        max(_number(counted, name), _number(billed, name))
        for name in ("input_tokens", "output_tokens")
    )
    cached = min(_number(reported, "cached_tokens"), read)
    thought = min(_number(counted, "reasoning_tokens"), written)
    usage = event_pb2.Usage(
        input_tokens=read - cached,
        cache_read_tokens=cached,
        output_tokens=written - thought,
        reasoning_tokens=thought,
    )
    searches = _number(billed, "search_units")
    if searches:
        usage.tool_calls["search"] = searches
    return usage


def _object(counts: dict[str, Any], name: str) -> dict[str, Any]:
    value = counts.get(name)
    return value if isinstance(value, dict) else {}


def _number(counts: dict[str, Any], name: str) -> int:
    return count(counts.get(name)) or 0
