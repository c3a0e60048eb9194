"""Token counts of a response as disjoint classes, and how often hosted tools were called."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from broker.v1 import event_pb2
from workers.counts import count

# Items of hosted tools that are billed by the call.
_BILLED = {
    "code_interpreter_call": "code_interpreter",
    "file_search_call": "file_search",
    "web_search_call": "web_search",
}


def usage_of(
    reported: Any, items: Iterable[str], estimated: Callable[[], event_pb2.Usage]
) -> event_pb2.Usage:
    """The classes of a `usage` object; what is `estimated` where there is none.

    `items` are the types of the answer's items.
    """
    if isinstance(reported, dict) and count(reported.get("output_tokens")) is not None:
        usage = event_pb2.Usage()
        read, made = (_details(reported, f"{side}_tokens_details") for side in ("input", "output"))
        _split(
            usage,
            "input_tokens",
            count(reported.get("input_tokens")) or 0,
            cache_read_tokens=read.get("cached_tokens"),
            cache_write_tokens=read.get("cache_write_tokens"),
            input_audio_tokens=read.get("audio_tokens"),
        )
        _split(
            usage,
            "output_tokens",
            count(reported["output_tokens"]) or 0,
            reasoning_tokens=made.get("reasoning_tokens"),
            output_audio_tokens=made.get("audio_tokens"),
        )
    else:
        usage = estimated()
    for kind in items:
        if kind in _BILLED:
            usage.tool_calls[_BILLED[kind]] += 1
    return usage


def _split(usage: event_pb2.Usage, rest: str, total: int, **parts: Any) -> None:
    """Writes the parts of a total, none larger than what is left of it, and the rest."""
    for name, reported in parts.items():
        taken = min(count(reported) or 0, total)
        setattr(usage, name, taken)
        total -= taken
    setattr(usage, rest, total)


def _details(reported: dict[str, Any], name: str) -> dict[str, Any]:
    details = reported.get(name)
    return details if isinstance(details, dict) else {}
