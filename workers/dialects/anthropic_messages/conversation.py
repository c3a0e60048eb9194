"""Turns the hub's messages into Claude's system prompt and alternating turns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from broker.errors import InferenceError
from broker.v1 import content_pb2, generation_pb2
from workers.dialects.anthropic_messages.blocks import Block, Writer, is_own, text_blocks
from workers.dialects.anthropic_messages.models import Family, Thinking
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
_THINKING = frozenset({"thinking", "redacted_thinking"})
# Put where Claude needs a user turn and the caller has none.
_GO_ON = "Continue."

Turn = dict[str, Any]


@dataclass(slots=True)
class Conversation:
    """`system` and `messages` of the request, and the beta features that they use."""

    system: list[Block] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    betas: set[str] = field(default_factory=set)

    @property
    def is_prefilled(self) -> bool:
        """Whether the answer continues a turn that the assistant began."""
        return bool(self.turns[-1]["role"] == "assistant")

    @property
    def called_tools(self) -> tuple[str, ...]:
        """The tools that the assistant called, each once."""
        blocks = (block for turn in self.turns for block in turn["content"])
        return tuple(dict.fromkeys(b["name"] for b in blocks if b["type"] == "tool_use"))

    @property
    def lost_thinking(self) -> bool:
        """Whether the last tool calls lack the thinking that led to them.

        Budget thinking refuses to go on from there: "Expected `thinking` or `redacted_thinking`,
        but found `tool_use`".
        """
        for turn in reversed(self.turns):
            if turn["role"] == "assistant":
                types: list[str] = [block["type"] for block in turn["content"]]
                return "tool_use" in types and types[0] not in _THINKING
        return False


def conversation(
    request: generation_pb2.GenerateRequest, family: Family, *, reads_addresses: bool
) -> Conversation:
    """The whole conversation; `InferenceError` with the message's path for what Claude lacks."""
    writer = Writer(
        keeps_thinking=family.thinking is not Thinking.NONE,
        reads_addresses=reads_addresses,
        verbatim=is_own(request),
    )
    result = Conversation(system=text_blocks(request.responses.instructions), betas=writer.betas)
    waiting: list[Block] = []  # a late system message waits for the turn that it governs
    for number, message in enumerate(request.messages):
        path = f"messages[{number}]"
        role = _ROLES.get(message.role)
        if role is None:
            raise InferenceError("invalid_request", "Unknown role.", param=f"{path}.role")
        blocks = _message_blocks(writer, message, path)
        if role == "system":
            if any(block["type"] != "text" for block in blocks):
                raise InferenceError(
                    "invalid_request", "Claude takes only text in system messages.", param=path
                )
            (waiting if result.turns else result.system).extend(blocks)
            continue
        if role == "assistant":
            _settle(result, waiting, family, last=False)
        _append(result.turns, role, blocks)
    _settle(result, waiting, family, last=True)
    if request.messages and request.messages[-1].continued and not family.prefill:
        raise not_continued("this Claude")
    _finish(result, family)
    return result


def _message_blocks(writer: Writer, message: content_pb2.Message, path: str) -> list[Block]:
    blocks = [
        block
        for number, part in enumerate(message.parts)
        for block in writer.blocks(part, f"{path}.content[{number}]")
    ]
    if message.name and message.role == content_pb2.ROLE_USER:
        # Claude has no field for who of several users speaks.
        first = next((block for block in blocks if block["type"] == "text"), None)
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
    content = turns[-1]["content"]
    if role == "user":
        # Stable: results keep their order, and stand before whatever else the user says.
        content.sort(key=lambda block: block["type"] != "tool_result")
    elif role == "assistant" and content[0]["type"] not in _THINKING:
        content.sort(key=lambda block: block["type"] not in _THINKING)


def _settle(result: Conversation, waiting: list[Block], family: Family, *, last: bool) -> None:
    """Places the system messages that stand inside the conversation.

    Claude takes them only after a user turn and right before the assistant's; families that do
    not honour them there get them with the system prompt.
    """
    if not waiting:
        return
    after_user = result.turns[-1]["role"] == "user"
    if family.inline_system:
        if not after_user:
            _append(result.turns, "user", text_blocks(_GO_ON))
        _append(result.turns, "system", list(waiting))
    elif last and not after_user:
        # It is what asks for the answer: without it the assistant would speak twice.
        for block in waiting:
            block["text"] = f"<system>\n{block['text']}\n</system>"
        _append(result.turns, "user", list(waiting))
    else:
        result.system += waiting
    waiting.clear()


def _finish(result: Conversation, family: Family) -> None:
    """Makes the conversation end the way Claude needs it to."""
    if not result.turns:
        # A lone system prompt is a question too.
        _append(result.turns, "user", result.system)
        result.system = []
    if not result.turns:
        raise InferenceError(
            "invalid_request",
            "There is no message with content: Claude refuses empty and blank text.",
            param="messages",
        )
    if not result.is_prefilled:
        return
    ending = result.turns[-1]["content"][-1]
    if ending["type"] == "tool_use":
        return  # its result is missing, and the API says so best
    if not family.prefill:
        _append(result.turns, "user", text_blocks(_GO_ON))
    elif ending["type"] == "text":
        # "final assistant content cannot end with trailing whitespace"
        ending["text"] = ending["text"].rstrip()
