"""Token counts: the totals of an OpenAI-format answer as disjoint classes."""

from __future__ import annotations

from typing import Any

from broker.v1 import event_pb2
from workers.counts import count


def usage_of(reported: Any) -> event_pb2.Usage | None:
    """The classes of a `usage` object; None where it counts nothing.

    `prompt_tokens` includes cached and audio tokens and `completion_tokens` includes reasoning
    and audio, so the plain classes are what is left. A part larger than its total is cut to it.
    """
    if not isinstance(reported, dict):
        return None
    prompt = _count(reported, "prompt_tokens", "input_tokens")
    completion = _count(reported, "completion_tokens", "output_tokens")
    if prompt is None and completion is None:
        return None
    read = _details(reported, "prompt_tokens_details", "input_tokens_details")
    made = _details(reported, "completion_tokens_details", "output_tokens_details")
    cached = (
        _count(read, "cached_tokens")
        # Other spellings seen in recorded answers.
        or _count(reported, "cached_tokens", "prompt_cache_hit_tokens", "num_cached_tokens")
        or 0
    )
    reasoning = _count(made, "reasoning_tokens") or 0
    total = _count(reported, "total_tokens")
    if reasoning and total == (prompt or 0) + (completion or 0) + reasoning:
        # This server counts reasoning beside the completion.
        completion = (completion or 0) + reasoning
    usage = event_pb2.Usage()
    left = _Rest(prompt or 0)
    usage.cache_read_tokens = left.take(cached)
    usage.cache_write_tokens = left.take(_count(read, "cache_write_tokens") or 0)
    usage.input_audio_tokens = left.take(_count(read, "audio_tokens") or 0)
    usage.input_tokens = left.amount
    left = _Rest(completion or 0)
    usage.reasoning_tokens = left.take(reasoning)
    usage.output_audio_tokens = left.take(_count(made, "audio_tokens") or 0)
    usage.output_tokens = left.amount
    for name in ("accepted_prediction_tokens", "rejected_prediction_tokens"):
        predicted = _count(made, name)
        if predicted is not None:
            setattr(usage, name, predicted)
    return usage


class _Rest:
    """What is left of a total while parts are taken out of it."""

    def __init__(self, amount: int) -> None:
        self.amount = amount

    def take(self, part: int) -> int:
        taken = min(part, self.amount)
        self.amount -= taken
        return taken


def _details(reported: dict[str, Any], *names: str) -> dict[str, Any]:
    for name in names:
        details = reported.get(name)
        if isinstance(details, dict):
            return details
    return {}


def _count(source: dict[str, Any], *names: str) -> int | None:
    for name in names:
        if name in source and (number := count(source[name])) is not None:
            return number
    return None
