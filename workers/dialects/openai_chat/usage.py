"""Token counts: the totals of an OpenAI-format answer as disjoint classes, or an estimate."""

from __future__ import annotations

from typing import Any

from broker.v1 import content_pb2, event_pb2, generation_pb2
from workers.counts import count

# Good for English prose, and never off by more than a small factor for anything else.
CHARS_PER_TOKEN = 4


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


def estimate(
    request: generation_pb2.Request, output_chars: int, reasoning_chars: int
) -> event_pb2.Usage:
    """Usage for a provider that reported none: a token per four characters, marked as estimated.

    Counts texts, tool calls, tool results and tool definitions; images, audio and files count
    nothing, because what they cost depends on the model.
    """
    generate = request.generate
    read = sum(_part_chars(part) for message in generate.messages for part in message.parts)
    for tool in generate.tools:
        function = tool.function
        read += len(function.name) + len(function.description) + len(function.parameters)
    return event_pb2.Usage(
        input_tokens=_tokens(read),
        output_tokens=_tokens(output_chars),
        reasoning_tokens=_tokens(reasoning_chars),
        estimated=True,
    )


class _Rest:
    """What is left of a total while parts are taken out of it."""

    def __init__(self, amount: int) -> None:
        self.amount = amount

    def take(self, part: int) -> int:
        taken = min(part, self.amount)
        self.amount -= taken
        return taken


def _part_chars(part: content_pb2.Part) -> int:
    if part.HasField("tool_result"):
        return sum(_part_chars(inner) for inner in part.tool_result.parts)
    call = part.tool_call
    return len(part.text.text) + len(call.name) + len(call.arguments)


def _tokens(chars: int) -> int:
    return -(-chars // CHARS_PER_TOKEN)


def _details(reported: dict[str, Any], *names: str) -> dict[str, Any]:
    return next((d for name in names if isinstance(d := reported.get(name), dict)), {})


def _count(source: dict[str, Any], *names: str) -> int | None:
    return next((n for name in names if (n := count(source.get(name))) is not None), None)
