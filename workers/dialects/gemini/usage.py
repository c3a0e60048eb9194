"""Turns Gemini's token counts into the hub's disjoint classes."""

from __future__ import annotations

from typing import Any

from broker.v1 import event_pb2
from workers.counts import count

# Fields that hold numbers; without any there is no usage. Vertex sends others on the way.
COUNTS = ("promptTokenCount", "candidatesTokenCount", "thoughtsTokenCount", "totalTokenCount")


def usage_of(counts: dict[str, Any]) -> event_pb2.Usage:
    """The hub's usage.

    The prompt's count includes what was cached, but neither what tools added; the count of
    candidates excludes thoughts.
    """
    cached = _number(counts, "cachedContentTokenCount")
    heard = max(0, _audio(counts, "promptTokensDetails") - _audio(counts, "cacheTokensDetails"))
    spoken = _audio(counts, "candidatesTokensDetails")
    drawn = _of(counts, "candidatesTokensDetails", "IMAGE")
    prompt = _number(counts, "promptTokenCount") + _number(counts, "toolUsePromptTokenCount")
    return event_pb2.Usage(
        input_tokens=max(0, prompt - cached - heard),
        cache_read_tokens=cached,
        input_audio_tokens=heard,
        output_tokens=max(0, _number(counts, "candidatesTokenCount") - spoken - drawn),
        output_audio_tokens=spoken,
        output_image_tokens=drawn,
        reasoning_tokens=_number(counts, "thoughtsTokenCount"),
    )


def _audio(counts: dict[str, Any], name: str) -> int:
    return _of(counts, name, "AUDIO")


def _of(counts: dict[str, Any], name: str, modality: str) -> int:
    details = counts.get(name)
    return sum(
        _number(entry, "tokenCount")
        for entry in (details if isinstance(details, list) else ())
        if isinstance(entry, dict) and entry.get("modality") == modality
    )


def _number(counts: dict[str, Any], name: str) -> int:
    return count(counts.get(name)) or 0
