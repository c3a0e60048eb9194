"""What else differs between model families on Converse: facts that no parameter's row can say.

Source: refusals of the real service, as far as they are public.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Claude:
    """How a family of Claude thinks."""

    # Thinks within a budget of tokens; else by an effort of these.
    budget: bool = False
    efforts: tuple[str, ...] = ()
    # What `thinking.type` turns thinking off on a family that thinks unasked; "" = it cannot be.
    # None = it does not think unasked.
    off: str | None = None
    # Refuses temperature and top_p together.
    one_of_sampling: bool = False
    # Goes on with a trailing assistant turn; others refuse it.
    prefill: bool = False


@dataclass(frozen=True, slots=True)
class Facts:
    """One family; the defaults hold for models that nothing is known of."""

    claude: Claude | None = None
    # Where top_k goes within additionalModelRequestFields; "" = nowhere.
    top_k: str = ""
    # Takes cachePoint blocks, and those that last an hour.
    caching: bool = False
    caching_1h: bool = False
    # Takes its signed reasoning back.
    signs: bool = False
    # May begin with an assistant turn.
    leads: bool = False
    # Kinds of blocks that may stand beside a toolResult; None = all.
    beside_results: frozenset[str] | None = None
    # Media that may stand inside of a toolResult.
    in_results: frozenset[str] = frozenset({"image", "document"})
    # Takes `status` in a toolResult.
    result_status: bool = True
    # Wants structured results of tools as `json`.
    json_results: bool = False
    # At the highest effort of reasoning takes neither sampling parameters nor a limit.
    bare_at_high: bool = False
    # Takes strict tools.
    strict: bool = False


_ALONE: frozenset[str] = frozenset()
_LOW_TO_HIGH = ("low", "medium", "high")
_ALL_EFFORTS = (*_LOW_TO_HIGH, "xhigh", "max")

_CLAUDE = Facts(
    claude=Claude(),
    top_k="top_k",
    caching=True,
    signs=True,
    leads=True,
    beside_results=frozenset({"text", "image"}),
)


def _claude(claude: Claude, *, strict: bool = True, caching_1h: bool = True) -> Facts:
    return replace(_CLAUDE, claude=claude, strict=strict, caching_1h=caching_1h)


_NEWEST = Claude(efforts=_ALL_EFFORTS)
_BUDGET = Claude(budget=True, prefill=True)

# By the names of the table's families.
FACTS: dict[str, Facts] = {
    "Claude Fable and Mythos 5.1+": _claude(replace(_NEWEST, off=""), strict=False),
    "Claude Fable and Mythos 5": _claude(replace(_NEWEST, off=""), strict=False),
    "Claude Opus 5.5": _claude(replace(_NEWEST, off="")),
    "Claude Sonnet 5.5": _claude(replace(_NEWEST, off="between_tools")),
    "Claude Opus 5, Sonnet 5, Haiku 5.5": _claude(replace(_NEWEST, off="disabled")),
    "Claude Opus 4.7, 4.8": _claude(_NEWEST),
    "Claude 4.6": _claude(
        replace(_NEWEST, efforts=(*_LOW_TO_HIGH, "max"), one_of_sampling=True),
    ),
    "Claude 4.5": _claude(replace(_BUDGET, one_of_sampling=True)),
    "Claude Opus 4, 4.1": _claude(
        replace(_BUDGET, one_of_sampling=True), strict=False, caching_1h=False
    ),
    "Claude Sonnet 4": _claude(_BUDGET, strict=False, caching_1h=False),
    "Claude 3.7": _claude(_BUDGET, strict=False, caching_1h=False),
    "Claude 3.5": _claude(Claude(prefill=True), strict=False, caching_1h=False),
    "Claude 3 and older": replace(
        _claude(Claude(prefill=True), strict=False, caching_1h=False), caching=False
    ),
    "other Claude": _claude(_NEWEST),
    "Nova 2": Facts(
        top_k="inferenceConfig.topK",
        caching=True,
        in_results=frozenset({"image"}),
        bare_at_high=True,
    ),
    "Nova": Facts(top_k="inferenceConfig.topK", caching=True, in_results=frozenset({"image"})),
    "Qwen3 Coder": Facts(leads=True, in_results=_ALONE, strict=True),
    "Qwen3": Facts(leads=True, in_results=_ALONE, strict=True),
    "GLM 5.3+": Facts(leads=True, strict=True),
    "GLM": Facts(leads=True, strict=True),
    "Kimi": Facts(leads=True, in_results=_ALONE, strict=True),
    "MiniMax": Facts(strict=True),
    "Llama": Facts(beside_results=_ALONE),
    "Mistral Large 3, Ministral 3, Magistral, Voxtral": Facts(
        beside_results=_ALONE,
        in_results=frozenset({"document"}),
        json_results=True,
        strict=True,
    ),
    "Mistral": Facts(beside_results=_ALONE, in_results=frozenset({"document"}), json_results=True),
    "Palmyra": Facts(beside_results=_ALONE, result_status=False),
    "Gemma 3": Facts(strict=True),
    "Nemotron Nano": Facts(strict=True),
}
_UNKNOWN = Facts()


def facts_of(family: str) -> Facts:
    """The facts of a family by its name in the table; what holds for most where it has none."""
    return FACTS.get(family, _UNKNOWN)
