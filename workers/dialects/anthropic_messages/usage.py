"""Turns Claude's token counts into the hub's disjoint classes."""

from __future__ import annotations

from typing import Any

from broker.v1 import event_pb2
from workers.counts import count

_SERVER_TOOL = "_requests"
_COUNTED = frozenset(
    {
        "cache_creation",
        "cache_creation_input_tokens",
        "cache_read_input_tokens",
        "input_tokens",
        "output_tokens",
        "output_tokens_details",
        "server_tool_use",
        "service_tier",
    }
)


def usage_of(counts: dict[str, Any]) -> event_pb2.Usage:
    """The hub's usage.

    Claude counts cached input beside `input_tokens`, but thinking within `output_tokens`.
    """
    details = _object(counts, "output_tokens_details")
    thinking = _number(details, "thinking_tokens")
    usage = event_pb2.Usage(
        input_tokens=_number(counts, "input_tokens"),
        cache_read_tokens=_number(counts, "cache_read_input_tokens"),
        cache_write_tokens=_number(counts, "cache_creation_input_tokens"),
        cache_write_1h_tokens=_number(
            _object(counts, "cache_creation"), "ephemeral_1h_input_tokens"
        ),
        output_tokens=max(0, _number(counts, "output_tokens") - thinking),
        reasoning_tokens=thinking,
    )
    for name, value in _object(counts, "server_tool_use").items():
        if made := count(value):
            usage.tool_calls[name.removesuffix(_SERVER_TOOL)] = made
    return usage


def uncounted(counts: dict[str, Any]) -> dict[str, Any]:
    """What else Claude counts, which the hub has no class for."""
    return {name: value for name, value in counts.items() if name not in _COUNTED}


def _object(counts: dict[str, Any], name: str) -> dict[str, Any]:
    value = counts.get(name)
    return value if isinstance(value, dict) else {}


def _number(counts: dict[str, Any], name: str) -> int:
    return count(counts.get(name)) or 0
