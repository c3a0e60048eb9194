"""Turns reasoning_effort into thinkingConfig, in tokens or in levels as the family wants it."""

from __future__ import annotations

from typing import Any

from workers.dialects.gemini.models import Budget, Family, Levels

# Source: the budgets of Google's own OpenAI format.
_BUDGETS = {
    "minimal": 512,
    "low": 1024,
    "medium": 8192,
    "high": 24_576,
    "xhigh": 32_768,
    "max": 32_768,
}
# The nearest level first.
_LEVELS = {
    "none": ("MINIMAL", "LOW"),
    "minimal": ("MINIMAL", "LOW"),
    "low": ("LOW",),
    "medium": ("MEDIUM", "HIGH"),
    "high": ("HIGH",),
    "xhigh": ("XHIGH", "HIGH"),
    "max": ("XHIGH", "HIGH"),
}
# Kept for the visible answer, because maxOutputTokens counts thoughts too.
_ROOM = 4096


def thinking_config(effort: str, family: Family, limit: int | None) -> dict[str, Any] | None:
    """The config for an effort; None where the family has none. `limit` is maxOutputTokens."""
    if isinstance(family.thinking, Levels):
        return _levels(effort, family.thinking)
    if isinstance(family.thinking, Budget):
        return _budget(effort, family.thinking, limit)
    return None


def _levels(effort: str, levels: Levels) -> dict[str, Any] | None:
    wanted = _LEVELS.get(effort)
    if wanted is None:
        return None
    level = next((name for name in wanted if name in levels.names), levels.names[0])
    return {"thinkingLevel": level} | _thoughts(effort)


def _budget(effort: str, budget: Budget, limit: int | None) -> dict[str, Any] | None:
    least = 0 if budget.can_stop else budget.low
    if effort == "none":
        return {"thinkingBudget": least}
    if effort not in _BUDGETS:
        return None
    tokens = min(max(_BUDGETS[effort], budget.low), budget.high)
    if limit is not None:
        tokens = min(tokens, limit - max(1, min(_ROOM, limit // 2)))
        tokens = tokens if tokens >= budget.low else least
    return {"thinkingBudget": tokens} | (_thoughts(effort) if tokens else {})


def _thoughts(effort: str) -> dict[str, Any]:
    """Who asks for thinking wants to see it; who asks for none does not."""
    return {} if effort == "none" else {"includeThoughts": True}
