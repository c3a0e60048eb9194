"""What each Claude model family accepts: one row per family, found by the model's name.

Source: the model and thinking types of the official SDK (anthropic 2.11) and Anthropic's model
documentation as of 2026-11. Names arrive in many spellings (dates, dots, platform prefixes), so a
name is read as line and version; a newer version of a known line gets the line's newest row.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import Enum


class Thinking(Enum):
    """How the family is asked to think."""

    NONE = "none"
    BUDGET = "enabled"  # thinking: {"type": "enabled", "budget_tokens": N}
    ADAPTIVE = "adaptive"  # thinking: {"type": "adaptive"} with an effort


class Sampling(Enum):
    """Which of temperature, top_p and top_k the family takes."""

    FREE = "free"
    ONE = "one"  # temperature or top_p, not both
    NONE = "none"  # all three are refused, whatever their value


@dataclass(frozen=True, slots=True)
class Family:
    """One row. Token counts are of output, thinking included."""

    # More is refused; None where the limit is unknown.
    max_tokens: int | None
    # Sent when the caller sets no limit, because the API requires one.
    default_max_tokens: int
    thinking: Thinking = Thinking.NONE
    # What `thinking.type` turns thinking off on a family that thinks unasked; "" = it cannot be.
    # None = it does not think unasked.
    off: str | None = None
    efforts: tuple[str, ...] = ()
    # Thinking text is left out of the answer unless it is asked for.
    hides_thinking: bool = False
    sampling: Sampling = Sampling.FREE
    # tool_choice any and tool.
    forced_tools: bool = True
    # output_config.format and strict tools.
    structured: bool = False
    # A trailing assistant turn is continued rather than refused.
    prefill: bool = True
    # Honours {"role": "system"} inside the conversation.
    inline_system: bool = False


_LOW_TO_HIGH = ("low", "medium", "high")
_ALL_EFFORTS = (*_LOW_TO_HIGH, "xhigh", "max")

# Up to Claude 4.1, input plus max_tokens over the context window is refused: a small default.
_CLAUDE_3 = Family(4096, 4096)
_CLAUDE_3_5 = replace(_CLAUDE_3, max_tokens=8192)
_CLAUDE_3_7 = Family(64_000, 4096, Thinking.BUDGET)
_OPUS_4 = replace(_CLAUDE_3_7, max_tokens=32_000)
_OPUS_4_1 = replace(_OPUS_4, sampling=Sampling.ONE, structured=True)
_CLAUDE_4_5 = Family(64_000, 64_000, Thinking.BUDGET, sampling=Sampling.ONE, structured=True)
_OPUS_4_5 = replace(_CLAUDE_4_5, efforts=_LOW_TO_HIGH)
_CLAUDE_4_6 = Family(
    128_000,
    128_000,
    Thinking.ADAPTIVE,
    efforts=(*_LOW_TO_HIGH, "max"),
    sampling=Sampling.ONE,
    structured=True,
    prefill=False,
)
_OPUS_4_7 = replace(_CLAUDE_4_6, efforts=_ALL_EFFORTS, hides_thinking=True, sampling=Sampling.NONE)
_OPUS_4_8 = replace(_OPUS_4_7, inline_system=True)
# Answers 200 to a system turn inside the conversation, and ignores it.
_SONNET_5 = replace(_OPUS_4_7, off="disabled")
_OPUS_5 = replace(_SONNET_5, inline_system=True)
_HAIKU_5_5 = _SONNET_5
_SONNET_5_5 = replace(_SONNET_5, off="between_tools", forced_tools=False)
_FABLE_5 = replace(_OPUS_5, off="")
_FABLE_5_1 = replace(_FABLE_5, forced_tools=False)

# Per line, the first version a row is true of. In ascending order.
_LINES: dict[str, tuple[tuple[tuple[int, int], Family], ...]] = {
    "opus": (
        ((3, 0), _CLAUDE_3),
        ((4, 0), _OPUS_4),
        ((4, 1), _OPUS_4_1),
        ((4, 5), _OPUS_4_5),
        ((4, 6), _CLAUDE_4_6),
        ((4, 7), _OPUS_4_7),
        ((4, 8), _OPUS_4_8),
        ((5, 0), _OPUS_5),
        ((5, 5), _FABLE_5_1),
    ),
    "sonnet": (
        ((3, 0), _CLAUDE_3),
        ((3, 5), _CLAUDE_3_5),
        ((3, 7), _CLAUDE_3_7),
        ((4, 5), _CLAUDE_4_5),
        ((4, 6), _CLAUDE_4_6),
        ((5, 0), _SONNET_5),
        ((5, 5), _SONNET_5_5),
    ),
    "haiku": (
        ((3, 0), _CLAUDE_3),
        ((3, 5), _CLAUDE_3_5),
        ((4, 5), _CLAUDE_4_5),
        ((5, 5), _HAIKU_5_5),
    ),
    "fable": (((5, 0), _FABLE_5), ((5, 1), _FABLE_5_1)),
    "mythos": (((5, 0), _FABLE_5), ((5, 1), _FABLE_5_1)),
}

# A Claude of no known line: what all recent ones take, and no limit to clamp to.
_NEW_CLAUDE = replace(_OPUS_4_7, max_tokens=None, default_max_tokens=32_000)
# Claude 2 and instant, which name no line.
_OLD_CLAUDE = _CLAUDE_3
# Somebody else's model behind the same wire format: everything the format has always had.
_FOREIGN = Family(None, 4096, Thinking.BUDGET)

_VERSION = r"(\d{1,2})(?!\d)(?:[-.](\d{1,2})(?!\d))?"
_LINE_FIRST = re.compile(r"claude-([a-z]+)(?:-" + _VERSION + ")?")
_VERSION_FIRST = re.compile(r"claude-" + _VERSION + r"(?:-([a-z]+))?")


def family(model: str) -> Family:
    """The row for a model name such as `claude-opus-4-5-20251101` or `anthropic.claude-3-haiku`."""
    name = model.lower()
    if match := _VERSION_FIRST.search(name):
        major, minor, line = match[1], match[2], match[3] or ""
    elif match := _LINE_FIRST.search(name):
        line, major, minor = match[1], match[2], match[3]
    else:
        return _FOREIGN
    rows = _LINES.get(line)
    version = (int(major or 0), int(minor or 0))
    if rows is None:
        return _OLD_CLAUDE if line == "instant" or 0 < version[0] < 3 else _NEW_CLAUDE
    # A name without a version (`claude-mythos-preview`) means the line's first.
    found = rows[0][1]
    for since, row in rows:
        if version >= since:
            found = row
    return found
