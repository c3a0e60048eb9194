"""Leaves out of a request what only Anthropic's Messages format has, for dialects of OpenAI's.

Those send on what they do not know, for callers of their own format; a caller of the other one
would get an error for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from broker.errors import InferenceError
from broker.v1 import content_pb2, generation_pb2
from workers.parameters import Action, Losses, Reasoning, Sheet

_Generate = generation_pb2.GenerateRequest
# The request says these by its effort too.
_SAID_ELSEWHERE = frozenset({"thinking", "output_config"})
# What nobody misses.
_IDLE = frozenset({"caller", "citations"})


def in_openai_terms(
    generate: _Generate, sheet: Sheet, quirks: Mapping[str, str], losses: Losses
) -> _Generate:
    """The request without them; what is missed is noted in `losses`.

    The quirk `top_k` is "send" where that is understood. Raises `InferenceError` for tools that
    are not the caller's own.
    """
    if generate.surface != generation_pb2.SURFACE_MESSAGES:
        return generate
    bare = _Generate()
    bare.CopyFrom(generate)
    for name in generate.extra:
        if name == "top_k" and quirks.get("top_k") == "send":
            continue
        del bare.extra[name]
        if name not in _SAID_ELSEWHERE:
            losses.drop(name)
    if generate.reasoning.effort == "none" and not _can_be_off(sheet):
        bare.reasoning.ClearField("effort")
        if sheet.reasoning is Reasoning.ALWAYS:
            losses.drop("thinking")
    for index, tool in enumerate(bare.tools):
        if tool.HasField("hosted"):
            message = f"The tool {tool.hosted.type!r} is not known here: describe it as your own."
            raise InferenceError("unsupported_parameter", message, param=f"tools[{index}].type")
        tool.extra.clear()
    for message_ in bare.messages:
        message_.extra.clear()
        _strip(message_.parts, losses)
    return bare


def asks_for_thoughts(generate: _Generate) -> bool:
    """Whether a caller of the Messages API wants to see what the model thinks."""
    if generate.surface != generation_pb2.SURFACE_MESSAGES or "thinking" not in generate.extra:
        return False
    effort = generate.reasoning.effort
    return effort not in ("", "none") and b'"omitted"' not in generate.extra["thinking"]


def _can_be_off(sheet: Sheet) -> bool:
    """Whether the model is told not to think; many clients say so to models that never do."""
    row = sheet.rows["reasoning_effort"]
    if row.words is not None:
        return "none" in row.words
    at_will = sheet.reasoning in (Reasoning.BY_DEFAULT, Reasoning.ON_REQUEST)
    return at_will and row.action is not Action.DROP


def _strip(parts: Iterable[content_pb2.Part], losses: Losses) -> None:
    for part in parts:
        for name in part.extra.keys() - _IDLE:
            losses.drop(f"messages[].content[].{name}")
        part.extra.clear()
        if part.HasField("tool_result"):
            _strip(part.tool_result.parts, losses)
        elif part.HasField("opaque"):
            _as_text(part, losses)


def _as_text(part: content_pb2.Part, losses: Losses) -> None:
    """A search result in words; what servers' tools said is left out."""
    block = orjson.loads(part.opaque.json)
    if part.opaque.type != "search_result":
        losses.drop(f"messages[].content[].type={part.opaque.type}")
        return
    lines = [block.get("title"), block.get("source"), *map(_text, block.get("content") or ())]
    part.text.text = "\n".join(line for line in lines if isinstance(line, str))


def _text(block: Any) -> Any:
    return block.get("text") if isinstance(block, dict) else None
