"""Which parameters a family of models takes: a table, and how it is applied to a chat body."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import Any


class Reasoning(Enum):
    """Whether a model thinks before it answers, and whether the caller can change that."""

    NEVER = "never"
    ALWAYS = "always"
    BY_DEFAULT = "by default"  # reasoning_effort "none" turns it off
    ON_REQUEST = "on request"  # only with a reasoning_effort other than "none"


@dataclass(frozen=True, slots=True)
class Family:
    """Models whose names match: what they do, and what they refuse with status 400.

    `refuses` is refused always, `refuses_reasoning` while the model reasons.
    """

    names: re.Pattern[str]
    reasoning: Reasoning
    refuses: tuple[str, ...] = ()
    refuses_reasoning: tuple[str, ...] = ()


_SAMPLING = (
    "temperature",
    "top_p",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "logprobs",
    "top_logprobs",
)
# Values that change nothing: the first two are even accepted by models that refuse all others,
# the rest goes without being reported.
_ACCEPTED_DEFAULTS = {"temperature": 1, "top_p": 1}
_SILENT_DEFAULTS = {"presence_penalty": 0, "frequency_penalty": 0, "logprobs": False}

_NEVER = ("reasoning_effort", "verbosity")
_ALL = (*_SAMPLING, "stop")


def _family(
    names: str,
    reasoning: Reasoning,
    refuses: tuple[str, ...] = (),
    refuses_reasoning: tuple[str, ...] = _ALL,
) -> Family:
    # The end keeps gpt-5 from matching gpt-5.1; snapshots and fine-tuned models go on there.
    return Family(re.compile(rf"^({names})([-:]|$)"), reasoning, refuses, refuses_reasoning)


# First match wins; a model that no row names takes everything.
# Source: the OpenAI API reference and model pages, and recorded refusals.
FAMILIES: dict[str, tuple[Family, ...]] = {
    "openai": (
        _family(r"gpt-3\.5|gpt-4|gpt-4o|gpt-4\.1|chatgpt-4o", Reasoning.NEVER, _NEVER),
        _family(r"gpt-5-chat", Reasoning.NEVER, _NEVER),
        # o3-mini takes `stop`, its siblings do not.
        _family(r"o3-mini", Reasoning.ALWAYS, ("verbosity",), _SAMPLING),
        _family(r"o\d+", Reasoning.ALWAYS, ("verbosity",)),
        _family(r"gpt-5\.\d+-chat|gpt-5(\.\d+)?-pro|gpt-5", Reasoning.ALWAYS),
        _family(r"gpt-5\.[1-4]", Reasoning.ON_REQUEST),
        _family(r"gpt-6-astra|gpt-6\.1-sol", Reasoning.ALWAYS),
        _family(r"gpt-5\.\d+|gpt-6(\.\d+)?", Reasoning.BY_DEFAULT),
    ),
}


@lru_cache(maxsize=256)
def family_of(table: str, model: str) -> Family | None:
    """The row for a model, `ft:` names included; None when the table has none."""
    name = model.removeprefix("ft:")
    return next((row for row in FAMILIES.get(table, ()) if row.names.match(name)), None)


def apply(family: Family, body: dict[str, Any]) -> tuple[str, ...]:
    """Takes out of a chat body what the family refuses, and says what that was."""
    if family.reasoning is not Reasoning.NEVER and "max_tokens" in body:
        limit = body.pop("max_tokens")
        body.setdefault("max_completion_tokens", limit)
    refused = family.refuses
    if _reasons(family, body.get("reasoning_effort")):
        refused += family.refuses_reasoning
    dropped = []
    for name in refused:
        if name not in body or body[name] == _ACCEPTED_DEFAULTS.get(name, ...):
            continue
        if body.pop(name) != _SILENT_DEFAULTS.get(name, ...):
            dropped.append(name)
    return tuple(dropped)


def _reasons(family: Family, effort: str | None) -> bool:
    if family.reasoning is Reasoning.BY_DEFAULT:
        return effort != "none"
    if family.reasoning is Reasoning.ON_REQUEST:
        return effort not in (None, "none")
    return family.reasoning is Reasoning.ALWAYS
