"""Turns the hub's messages into Converse's system prompt and alternating turns."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from broker.errors import InferenceError
from broker.v1 import content_pb2, generation_pb2
from workers.dialects.bedrock_converse.blocks import Writer, text_blocks
from workers.dialects.bedrock_converse.families import Facts
from workers.dialects.bedrock_converse.media import Block
from workers.provider import not_continued

_ROLES = {
    content_pb2.ROLE_UNSPECIFIED: "user",
    content_pb2.ROLE_SYSTEM: "system",
    content_pb2.ROLE_DEVELOPER: "system",
    content_pb2.ROLE_USER: "user",
    content_pb2.ROLE_ASSISTANT: "assistant",
    # Results of tools are something the user says.
    content_pb2.ROLE_TOOL: "user",
}
# Put where a user turn has to be and the caller has none.
_GO_ON = "Continue."
# An assistant turn that says as little as is allowed.
_NOTHING = {"role": "assistant", "content": [{"text": "."}]}
_MOST_CACHE_POINTS = 4
_BULKY = frozenset({"document", "video"})

Turn = dict[str, Any]


@dataclass(slots=True)
class Conversation:
    """`system` and `messages` of the request."""

    system: list[Block] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)

    @property
    def is_prefilled(self) -> bool:
        """Whether the answer continues a turn that the assistant began."""
        return bool(self.turns[-1]["role"] == "assistant")

    @property
    def uses_tools(self) -> bool:
        """Whether the history has calls or results, which need tools to be defined."""
        return any("toolUse" in b or "toolResult" in b for t in self.turns for b in t["content"])

    @property
    def called_tools(self) -> tuple[str, ...]:
        """The tools that the assistant called, each once."""
        blocks = (block for turn in self.turns for block in turn["content"])
        return tuple(dict.fromkeys(b["toolUse"]["name"] for b in blocks if "toolUse" in b))

    @property
    def lost_thinking(self) -> bool:
        """Whether the last tool calls lack the thinking that led to them.

        Claude's budget thinking refuses to go on from there.
        """
        for turn in reversed(self.turns):
            if turn["role"] == "assistant":
                content = turn["content"]
                calls = any("toolUse" in block for block in content)
                return calls and "reasoningContent" not in content[0]
        return False


def conversation(request: generation_pb2.GenerateRequest, facts: Facts) -> Conversation:
    """The whole conversation; `InferenceError` with the path of what Converse lacks."""
    writer = Writer(facts)
    result = Conversation(system=text_blocks(request.responses.instructions))
    waiting: list[Block] = []  # a late system message, which may yet be the last one
    for number, message in enumerate(request.messages):
        path = f"messages[{number}]"
        role = _ROLES.get(message.role)
        if role is None:
            raise InferenceError("invalid_request", "Unknown role.", param=f"{path}.role")
        blocks = _message_blocks(writer, message, path)
        if role == "system":
            if not all("text" in block or "cachePoint" in block for block in blocks):
                raise InferenceError(
                    "invalid_request", "Bedrock takes only text in system messages.", param=path
                )
            (waiting if result.turns else result.system).extend(blocks)
            continue
        result.system += waiting
        waiting.clear()
        _append(result.turns, role, blocks)
    last = request.messages[-1] if request.messages else None
    if last is not None and last.continued and not (facts.claude and facts.claude.prefill):
        raise not_continued("this model")
    _finish(result, waiting, facts)
    return result


def _message_blocks(writer: Writer, message: content_pb2.Message, path: str) -> list[Block]:
    blocks = [
        block
        for number, part in enumerate(message.parts)
        for block in writer.blocks(part, f"{path}.content[{number}]")
    ]
    if message.name and message.role == content_pb2.ROLE_USER:
        # Converse has no field for who of several users speaks.
        first = next((block for block in blocks if "text" in block), None)
        if first is not None:
            first["text"] = f"{message.name}: {first['text']}"
    return blocks


def _append(turns: list[Turn], role: str, blocks: list[Block]) -> None:
    """Adds to the last turn if it is the same speaker's, else as a new one."""
    if not blocks:
        return
    if turns and turns[-1]["role"] == role:
        turns[-1]["content"] += blocks
    else:
        turns.append({"role": role, "content": blocks})


def _finish(result: Conversation, waiting: list[Block], facts: Facts) -> None:
    """Gives the conversation the order that Bedrock insists on."""
    if waiting and result.turns[-1]["role"] == "assistant":
        # It is what asks for the answer: without it the assistant would speak twice.
        for block in waiting:
            if "text" in block:
                block["text"] = f"<system>\n{block['text']}\n</system>"
        _append(result.turns, "user", waiting)
    else:
        result.system += waiting
    if not result.turns:
        # A lone system prompt is a question too.
        _append(result.turns, "user", result.system)
        result.system = []
    if not result.turns:
        raise InferenceError(
            "invalid_request",
            "There is no message with content: Bedrock refuses empty and blank text.",
            param="messages",
        )
    if result.turns[0]["role"] == "assistant" and not facts.leads:
        result.turns.insert(0, {"role": "user", "content": text_blocks(_GO_ON)})
    _end(result, facts)
    result.turns = [turn for written in result.turns for turn in _ordered(written, facts)]
    result.system = _caching(result.system)
    for turn in result.turns:
        turn["content"] = _caching(turn["content"])


def _end(result: Conversation, facts: Facts) -> None:
    if not result.is_prefilled:
        return
    ending = result.turns[-1]["content"][-1]
    if "toolUse" in ending:
        return  # its result is missing, and the API says so best
    if facts.claude is not None and not facts.claude.prefill:
        _append(result.turns, "user", text_blocks(_GO_ON))
    elif "text" in ending:
        # "final assistant content cannot end with trailing whitespace"
        ending["text"] = ending["text"].rstrip()


def _ordered(turn: Turn, facts: Facts) -> list[Turn]:
    """The turn with its blocks in order, or the turns that it has to be split into."""
    content: list[Block] = turn["content"]
    if turn["role"] == "assistant":
        if "reasoningContent" not in content[0]:
            content.sort(key=lambda block: "reasoningContent" not in block)
        return [turn]
    if any("document" in b for b in content) and not any("text" in b for b in content):
        content.insert(0, {"text": "See the attached document."})
    results, others = _apart(content)
    if not results or not others:
        return [turn]
    allowed = facts.beside_results
    if allowed is None or all(next(iter(b)) in allowed | {"cachePoint"} for b in others):
        turn["content"] = [*results, *others]
        return [turn]
    # Turns of one side that follow each other would be joined again.
    said = [{"role": "user", "content": part} for part in (results, others)]
    return [said[0], {**_NOTHING}, said[1]]


def _apart(content: list[Block]) -> tuple[list[Block], list[Block]]:
    """Results of tools, with the cache points behind them, and everything else."""
    results: list[Block] = []
    others: list[Block] = []
    place = others
    for block in content:
        if "cachePoint" not in block:
            place = results if "toolResult" in block else others
        place.append(block)
    return results, others


def _caching(blocks: list[Block]) -> list[Block]:
    """Cache points where they are accepted: not first, not twice, not behind documents."""
    written: list[Block] = []
    for block in blocks:
        if "cachePoint" not in block:
            written.append(block)
            continue
        place = len(written)
        while place and next(iter(written[place - 1])) in _BULKY:
            place -= 1
        if place and "cachePoint" not in written[place - 1]:
            written.insert(place, block)
    return written


def limit_cache_points(lists: Iterable[list[Block]]) -> None:
    """Keeps the last of a request's cache points, which cover what the first ones do."""
    left = _MOST_CACHE_POINTS
    for blocks in reversed(list(lists)):
        for place in range(len(blocks) - 1, -1, -1):
            if "cachePoint" in blocks[place]:
                left -= 1
                if left < 0:
                    del blocks[place]
