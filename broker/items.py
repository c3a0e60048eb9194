"""Which parts of an answer make up one item of the Responses API, and what it is called; pure.

Streams, whole objects, conversations and references all go by this, so that an item is the same
everywhere. An id has the answer's own in it: who has the one finds the other.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

from broker.v1 import content_pb2, generation_pb2, stored_pb2

# What servers of this API are called where content is theirs alone.
RESPONSES = "openai_responses"
_STATE = "reasoning.encrypted_content"
_TYPES = {
    "text": "message",
    "refusal": "message",
    "reasoning": "reasoning",
    "tool_call": "function_call",
    "image": "image_generation_call",
    "opaque": "opaque",
}
# What the id of an item begins with, by its type.
_PREFIXES = {
    "message": "msg_",
    "reasoning": "rs_",
    "function_call": "fc_",
    "function_call_output": "fco_",
    "custom_tool_call": "ctc_",
    "custom_tool_call_output": "ctco_",
    "image_generation_call": "ig_",
}
_OWNER = re.compile(r"[a-z]+_([0-9a-f]{32})")
_ITEM = re.compile(r"[a-z]+_([0-9a-f]{32})[0-9a-f]{16}")


class _Named(msgspec.Struct):
    id: str = ""


_named = msgspec.json.Decoder(_Named).decode


def item_id(owner: str, position: int | str, kind: str) -> str:
    """The id of the item of type `kind` at a position of a response or conversation.

    Input items have positions of their own, such as `in0`.
    """
    known = _OWNER.fullmatch(owner)
    digest = hashlib.blake2b(f"{owner}:{position}".encode(), digest_size=24).hexdigest()
    whole = known[1] + digest[:16] if known else digest
    return _PREFIXES.get(kind, "item_") + whole


def owner_of(name: str) -> str:
    """The 32 hex digits of the id of what the item belongs to; "" for an id that is not ours."""
    known = _ITEM.fullmatch(name)
    return known[1] if known else ""


def with_state(request: generation_pb2.Request) -> bool:
    """Whether callers keep the provider's state of reasoning themselves."""
    generate = request.generate
    if _STATE in generate.responses.include:
        return True
    return generate.HasField("store") and not generate.store


@dataclass(slots=True)
class Group:
    """Parts that are one item. Of those that are not shown, the ones before it are among them."""

    type: str
    parts: list[content_pb2.Part] = field(default_factory=list)


def is_shown(part: content_pb2.Part, *, with_state: bool) -> bool:
    """Whether callers see a part: not a provider's state alone, unless they asked for it.

    Reasoning that a server of this API announced is seen also where it says nothing of it.
    """
    kind = part.WhichOneof("kind")
    if kind == "opaque":
        return part.opaque.issuer == RESPONSES
    if kind == "reasoning":
        reasoning = part.reasoning
        if reasoning.text or reasoning.summary or (with_state and reasoning.blobs):
            return True
        return any(blob.issuer == RESPONSES for blob in reasoning.blobs)
    return kind in _TYPES


def type_of(part: content_pb2.Part) -> str:
    """The type of the item that a shown part belongs to."""
    kind = part.WhichOneof("kind") or ""
    if kind == "tool_call" and part.tool_call.kind == content_pb2.TOOL_KIND_CUSTOM:
        return "custom_tool_call"
    return _TYPES[kind]


def grouped(parts: Iterable[content_pb2.Part], *, with_state: bool) -> list[Group]:
    """The items that parts make up.

    A text begins a new message, unless what came before it belongs to it: a refusal, or state
    that is not shown.
    """
    groups: list[Group] = []
    hidden: list[content_pb2.Part] = []
    for part in parts:
        if not is_shown(part, with_state=with_state):
            hidden.append(part)
            continue
        kind = type_of(part)
        last = groups[-1] if groups else None
        if (
            last is not None
            and kind == last.type == "message"
            and (hidden or _goes_on(last.parts[-1], part))
        ):
            last.parts += [*hidden, part]
        else:
            groups.append(Group(kind, [*hidden, part]))
        hidden = []
    return groups


def _goes_on(before: content_pb2.Part, part: content_pb2.Part) -> bool:
    return before.WhichOneof("kind") != part.WhichOneof("kind")


def name_of(group: Group, owner: str, position: int | str) -> str:
    """The id of the item that a group is, which is `position`th of its answer."""
    return group.parts[-1].item_id or item_id(owner, position, group.type)


def name_answer(message: content_pb2.Message, owner: str, *, with_state: bool) -> None:
    """Give every shown part of an answer the id of its item."""
    for position, group in enumerate(grouped(message.parts, with_state=with_state)):
        name = item_id(owner, position, group.type)
        for part in group.parts:
            if part.HasField("opaque"):
                part.item_id = _named(part.opaque.json).id or name
            elif is_shown(part, with_state=with_state):
                part.item_id = name


def name_messages(messages: Iterable[content_pb2.Message], owner: str, salt: str = "") -> None:
    """Give every item of an input an id, unless it has one; `salt` sets it off from others."""
    count = 0

    def name(kind: str) -> str:
        nonlocal count
        count += 1
        return item_id(owner, f"{salt}in{count - 1}", kind)

    for message in messages:
        if message.role == content_pb2.ROLE_ASSISTANT:
            for group in grouped(message.parts, with_state=True):
                fresh = name(group.type)
                shared = group.parts[-1].item_id or fresh
                for part in group.parts:
                    part.item_id = part.item_id or shared
            continue
        for part in message.parts:
            if part.HasField("tool_result"):
                custom = part.tool_result.kind == content_pb2.TOOL_KIND_CUSTOM
                fresh = name("custom_tool_call_output" if custom else "function_call_output")
                part.item_id = part.item_id or fresh
            elif part.HasField("opaque"):
                part.item_id = part.item_id or _named(part.opaque.json).id or name("opaque")
        if not message.parts or any(not _is_item(part) for part in message.parts):
            fresh = name("message")
            message.item_id = message.item_id or fresh


def _is_item(part: content_pb2.Part) -> bool:
    return part.HasField("tool_result") or part.HasField("opaque")


def name_record(record: stored_pb2.StoredResponse) -> None:
    """Give every item of a response that is answered its id: of its input and of its output."""
    name_messages(record.request.generate.messages, record.id)
    if record.answer.choices:
        message = record.answer.choices[0].message
        name_answer(message, record.id, with_state=with_state(record.request))


def find(
    messages: Iterable[content_pb2.Message], name: str, *, with_state: bool = True
) -> content_pb2.Message | None:
    """The item of this id among messages that were named, as a message of its own."""
    for message in messages:
        if message.item_id == name:
            return message
        if message.role == content_pb2.ROLE_ASSISTANT:
            for group in grouped(message.parts, with_state=with_state):
                if any(part.item_id == name for part in group.parts):
                    return content_pb2.Message(role=message.role, parts=group.parts)
        elif parts := [part for part in message.parts if part.item_id == name]:
            return content_pb2.Message(role=message.role, parts=parts)
    return None
