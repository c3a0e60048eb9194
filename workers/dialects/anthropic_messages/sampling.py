"""Decides max_tokens, thinking, effort, temperature, top_p and top_k together.

They constrain each other: a thinking budget has to fit max_tokens, thinking forbids most
sampling parameters, and a forced tool or a history without thinking forbids a thinking budget.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from broker.errors import InferenceError
from broker.v1 import generation_pb2
from workers.dialects.anthropic_messages.blocks import Block, is_own
from workers.dialects.anthropic_messages.models import Family, Sampling, Thinking
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
# Kept for the visible answer where the caller's limit leaves a choice.
_ROOM = 4096
_LOWEST_TOP_P_WHEN_THINKING = 0.95


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What else in the request has a say."""

    forced_tool: bool
    lost_thinking: bool
    prefilled: bool
    # `thinking` and `output_config.effort` as the caller gave them in Claude's own terms.
    thinking: Block | None = None
    effort: str | None = None

    @property
    def forbids_budget(self) -> bool:
        return self.forced_tool or self.lost_thinking or self.prefilled


@dataclass(frozen=True, slots=True)
class Judge:
    """Decides for one request to one family, and notes in `losses` what it leaves out."""

    request: generation_pb2.GenerateRequest
    family: Family
    losses: Losses

    def limit_and_thinking(self, around: Circumstances) -> tuple[Block, str | None]:
        """The fields `max_tokens` and perhaps `thinking`; and the effort to ask for, if any."""
        limit = self._caller_limit()
        thinking, effort = self._thinking(around, limit)
        budget = thinking.get("budget_tokens") if thinking is not None else None
        if limit is None:
            limit = self.family.default_max_tokens
            if isinstance(budget, int):
                limit = max(limit, budget + _ROOM)
                limit = min(limit, self.family.max_tokens or limit)
        result: Block = {"max_tokens": limit}
        if thinking is not None:
            result["thinking"] = thinking
        return result, effort

    def sampling(self, thinking: Block | None, top_k: Any) -> Block:
        """`temperature`, `top_p` and `top_k` as far as the model takes them now.

        1 is what temperature and top_p are anyway: leaving that out is no loss.
        """
        asked = self.request
        values: Block = {
            "temperature": _clamped(asked.temperature) if asked.HasField("temperature") else None,
            "top_p": _clamped(asked.top_p) if asked.HasField("top_p") else None,
            "top_k": top_k,
        }
        refused = _refused(values, self.family, thinking)
        result: Block = {}
        for name, value in values.items():
            if value is None:
                continue
            if name not in refused:
                result[name] = value
            elif value != 1 or name == "top_k":
                self.losses.drop(name)
        return result

    def _caller_limit(self) -> int | None:
        asked, most = self.request, self.family.max_tokens
        if asked.HasField("max_output_tokens"):
            limit = asked.max_output_tokens
        elif asked.HasField("max_tokens"):
            limit = asked.max_tokens
        else:
            return None
        return limit if most is None else min(limit, most)

    def _thinking(
        self, around: Circumstances, limit: int | None
    ) -> tuple[Block | None, str | None]:
        """`thinking` and the effort; None = not sent."""
        if is_own(self.request):
            return self._own(around)
        wanted = self._wanted_effort()
        effort = around.effort or _effort(wanted, self.family)
        if around.thinking is not None:
            if wanted not in (None, "none") and effort is None:
                self.losses.drop("reasoning_effort")
            if around.thinking.get("type") == Thinking.BUDGET.value and around.forbids_budget:
                self.losses.drop("thinking")
                return None, effort
            return around.thinking, effort
        if wanted is None or wanted == "none":
            return self._unasked(wanted, effort)
        if self.family.thinking is Thinking.ADAPTIVE:
            shown = {"display": "summarized"} if self.family.hides_thinking else {}
            return {"type": "adaptive"} | shown, effort
        if self.family.thinking is Thinking.BUDGET and not around.forbids_budget:
            budget = _budget(wanted, limit if limit is not None else self.family.max_tokens)
            if budget is not None:
                return {"type": "enabled", "budget_tokens": budget}, effort
        if effort is None:
            self.losses.drop("reasoning_effort")
        return None, effort

    def _own(self, around: Circumstances) -> tuple[Block | None, str | None]:
        """What a caller of this format says itself; nothing follows from its silence."""
        thinking = around.thinking
        if thinking and thinking.get("type") == Thinking.BUDGET.value and around.forbids_budget:
            self.losses.drop("thinking")
            thinking = None
        return thinking, around.effort

    def _wanted_effort(self) -> str | None:
        if not self.request.reasoning.HasField("effort"):
            return None
        wanted = self.request.reasoning.effort
        if wanted != "none" and wanted not in _EFFORTS:
            raise InferenceError(
                "invalid_request", f"Unknown effort {wanted!r}.", param="reasoning_effort"
            )
        return wanted

    def _unasked(self, wanted: str | None, effort: str | None) -> tuple[Block | None, str | None]:
        """No reasoning wanted: switched off where the model would think all the same."""
        off = self.family.off
        if off is None or (wanted is None and effort is not None):
            return None, effort
        if off:
            return {"type": off}, effort
        if wanted == "none":
            self.losses.drop("reasoning_effort")
            return None, effort or "low"
        return None, effort


def _effort(wanted: str | None, family: Family) -> str | None:
    return next((e for e in _EFFORTS.get(wanted or "", ()) if e in family.efforts), None)


def _budget(wanted: str, limit: int | None) -> int | None:
    """Tokens to think with, or None where the limit leaves too few."""
    budget = _BUDGETS[wanted]
    if limit is None:
        return budget
    # At most three quarters, so that an answer is left.
    budget = max(_SMALLEST_BUDGET, min(budget, limit * 3 // 4))
    return budget if budget < limit else None


def _clamped(value: float) -> float:
    return min(max(value, 0.0), 1.0)


def _refused(values: Block, family: Family, thinking: Block | None) -> set[str]:
    """Which of the given values this request must not carry."""
    if family.sampling is Sampling.NONE:
        return set(values)
    temperature, top_p = values["temperature"], values["top_p"]
    refused: set[str] = set()
    if thinking is not None and thinking.get("type") in ("enabled", "adaptive"):
        refused.add("top_k")
        if temperature != 1:
            refused.add("temperature")
        if top_p is not None and top_p < _LOWEST_TOP_P_WHEN_THINKING:
            refused.add("top_p")
    both = temperature is not None and top_p is not None
    if family.sampling is Sampling.ONE and both and not refused:
        refused.add("temperature" if temperature == 1 else "top_p")
    return refused
