"""Decides how Claude thinks: `thinking` and `output_config.effort` of its own request fields.

They constrain the rest: a budget has to fit the limit, and a forced tool, a history without
thinking or an answer already begun forbid a budget.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from broker.errors import InferenceError
from workers.dialects.bedrock_converse.families import Claude
from workers.parameters import Losses

_EFFORTS = {
    "minimal": ("low",),
    "low": ("low",),
    "medium": ("medium",),
    "high": ("high",),
    "xhigh": ("xhigh", "max", "high"),
    "max": ("max", "high"),
}
_BUDGETS = {
    "minimal": 1024,
    "low": 2048,
    "medium": 8192,
    "high": 16_384,
    "xhigh": 32_768,
    "max": 32_768,
}
_SMALLEST_BUDGET = 1024


@dataclass(frozen=True, slots=True)
class Wish:
    """What the request asks for, and what else in it has a say."""

    # None = nothing was asked.
    effort: str | None
    # `thinking` in Claude's own terms, and the effort beside it.
    thinking: Any
    own_effort: Any
    forbids_budget: bool
    # The caller's limit of output, and the model's.
    limit: int | None
    most: int | None
    # The caller speaks Claude's own terms: nothing follows from what it does not say.
    verbatim: bool = False


def thinking_fields(wish: Wish, claude: Claude, losses: Losses) -> dict[str, Any]:
    """The fields to send; empty where nothing has to be said."""
    if wish.effort not in (None, "none") and wish.effort not in _EFFORTS:
        raise InferenceError(
            "invalid_request", f"Unknown effort {wish.effort!r}.", param="reasoning_effort"
        )
    effort = wish.own_effort or _effort(wish.effort, claude)
    thinking = wish.thinking
    if not (thinking or wish.verbatim):
        thinking = _thinking(wish, claude, effort, losses)
    if isinstance(thinking, dict) and thinking.get("type") == "enabled" and wish.forbids_budget:
        losses.drop("thinking" if wish.thinking else "reasoning_effort")
        thinking = None
    if wish.effort == "none" and claude.off == "" and wish.thinking is None:
        losses.drop("reasoning_effort")
        effort = effort or "low"
    fields: dict[str, Any] = {}
    if thinking:
        fields["thinking"] = thinking
    if effort:
        fields["output_config"] = {"effort": effort}
    return fields


def _thinking(
    wish: Wish, claude: Claude, effort: str | None, losses: Losses
) -> dict[str, Any] | None:
    if wish.effort is None or wish.effort == "none":
        # Switched off where the model would think all the same.
        return {"type": claude.off} if claude.off and not effort else None
    if not claude.budget:
        return {"type": "adaptive"}
    budget = _budget(wish.effort, wish.limit if wish.limit is not None else wish.most)
    if budget is None:
        losses.drop("reasoning_effort")
        return None
    return {"type": "enabled", "budget_tokens": budget}


def _effort(wanted: str | None, claude: Claude) -> str | None:
    return next((e for e in _EFFORTS.get(wanted or "", ()) if e in claude.efforts), None)


def _budget(wanted: str, limit: int | None) -> int | None:
    """Tokens to think with, or None where the limit leaves too few."""
    budget = _BUDGETS[wanted]
    if limit is None:
        return budget
    # At most three quarters, so that an answer is left.
    budget = max(_SMALLEST_BUDGET, min(budget, limit * 3 // 4))
    return budget if budget < limit else None
