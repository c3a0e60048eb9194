"""Translates the content blocks of the Messages API into the hub's parts.

Blocks of a type that the hub has no part for (search results, what servers' tools said) stay
whole. Results of tools are messages of their own in the hub, one each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from broker.translate import carry, fields
from broker.translate.media import read_base64
from broker.translate.refusals import json_text, missing
from broker.v1 import content_pb2, generation_pb2

_Part = content_pb2.Part
_Block = dict[str, Any]
# The generated type of a list of parts is private.
_Parts = Any

_ROLES = {
    "user": content_pb2.ROLE_USER,
    "assistant": content_pb2.ROLE_ASSISTANT,
    "system": content_pb2.ROLE_SYSTEM,
}
_RESULT = "tool_result"


def add_turn(
    generate: generation_pb2.GenerateRequest, role: str, content: str | list[_Block], where: str
) -> None:
    """Add a message; one that holds results of tools becomes several."""
    if isinstance(content, str):
        generate.messages.add(role=_ROLES[role]).parts.add().text.text = content
        return
    place = f"{where}.content"
    message: content_pb2.Message | None = None
    for index, block in enumerate(content):
        if block.get("type") == _RESULT and role == "user":
            message = None
            result = generate.messages.add(role=content_pb2.ROLE_TOOL)
            _add_block(result.parts, block, f"{place}[{index}]")
            continue
        if message is None:
            message = generate.messages.add(role=_ROLES[role])
        _add_block(message.parts, block, f"{place}[{index}]")
    if not content:
        generate.messages.add(role=_ROLES[role])


def add_blocks(parts: _Parts, content: str | list[_Block], where: str) -> None:
    """Add the parts of a text or of blocks."""
    if isinstance(content, str):
        parts.add().text.text = content
        return
    for index, block in enumerate(content):
        _add_block(parts, block, f"{where}[{index}]")


def _add_block(parts: _Parts, block: _Block, where: str) -> None:
    kind = fields.text(block, "type", where)
    hub = parts.add()
    known = _KINDS.get(kind)
    if known is None or not known.read(hub, block, where):
        hub.opaque.type = kind
        hub.opaque.issuer = carry.ANTHROPIC
        hub.opaque.json = json_text(block, where)
        return
    mark = block.get("cache_control")
    if mark is not None:
        hub.cache_control = json_text(mark, f"{where}.cache_control")
    if len(block) > 2:
        for name in block.keys() - known.fields:
            if block[name] is not None:
                hub.extra[name] = json_text(block[name], f"{where}.{name}")


# Each says whether the hub has a place for such a block.


def _text(hub: _Part, block: _Block, where: str) -> bool:
    hub.text.text = fields.text(block, "text", where)
    return True


def _source(block: _Block, where: str) -> tuple[_Block, str]:
    """The source of a picture or document, and its type."""
    source = block.get("source")
    if source is None:
        raise missing(f"{where}.source")
    if not isinstance(source, dict):
        raise fields.wrong(f"{where}.source", "an object")
    return source, fields.text(source, "type", f"{where}.source")


def _inline(inline: content_pb2.InlineData, source: _Block, where: str) -> None:
    inline.media_type = fields.text(source, "media_type", f"{where}.source")
    data = fields.text(source, "data", f"{where}.source")
    inline.data = read_base64(data, f"{where}.source.data")


def _image(hub: _Part, block: _Block, where: str) -> bool:
    source, kind = _source(block, where)
    if kind == "base64":
        _inline(hub.image.inline, source, where)
    elif kind == "url":
        hub.image.url = fields.text(source, "url", f"{where}.source")
    elif kind == "file":
        hub.image.file_id = fields.text(source, "file_id", f"{where}.source")
    else:
        return False
    return True


def _document(hub: _Part, block: _Block, where: str) -> bool:
    source, kind = _source(block, where)
    if kind == "base64":
        _inline(hub.file.inline, source, where)
    elif kind == "text":
        hub.file.inline.media_type = "text/plain"
        hub.file.inline.data = fields.text(source, "data", f"{where}.source").encode()
    elif kind == "url":
        hub.file.url = fields.text(source, "url", f"{where}.source")
    elif kind == "file":
        hub.file.file_id = fields.text(source, "file_id", f"{where}.source")
    else:
        return False
    if title := fields.text(block, "title", where, default=""):
        hub.file.filename = title
    return True


def _tool_use(hub: _Part, block: _Block, where: str) -> bool:
    call = hub.tool_call
    call.call_id = fields.text(block, "id", where)
    call.name = fields.text(block, "name", where)
    call.kind = content_pb2.TOOL_KIND_FUNCTION
    given = block.get("input")
    if given is None:
        raise missing(f"{where}.input")
    if not isinstance(given, dict):
        raise fields.wrong(f"{where}.input", "an object")
    call.arguments = json_text(given, f"{where}.input")
    return True


def _tool_result(hub: _Part, block: _Block, where: str) -> bool:
    result = hub.tool_result
    result.call_id = fields.text(block, "tool_use_id", where)
    result.kind = content_pb2.TOOL_KIND_FUNCTION
    content = block.get("content")
    if isinstance(content, str):
        result.parts.add().text.text = content
    else:
        for index, inner in enumerate(fields.array(block, "content", where)):
            place = f"{where}.content[{index}]"
            if not isinstance(inner, dict):
                raise fields.wrong(place, "an object")
            _add_block(result.parts, inner, place)
    failed = block.get("is_error")
    if failed is not None and not isinstance(failed, bool):
        raise fields.wrong(f"{where}.is_error", "a boolean")
    result.is_error = bool(failed)
    return True


def _thinking(hub: _Part, block: _Block, where: str) -> bool:
    hub.CopyFrom(carry.read_thinking(block, where))
    return True


class _Kind(NamedTuple):
    read: Callable[[_Part, _Block, str], bool]
    fields: frozenset[str]


def _kind(read: Callable[[_Part, _Block, str], bool], *names: str) -> _Kind:
    return _Kind(read, frozenset({"type", "cache_control", *names}))


_KINDS = {
    "text": _kind(_text, "text"),
    "image": _kind(_image, "source"),
    "document": _kind(_document, "source", "title"),
    "tool_use": _kind(_tool_use, "id", "name", "input"),
    _RESULT: _kind(_tool_result, "tool_use_id", "content", "is_error"),
    "thinking": _kind(_thinking, "thinking", "signature"),
    "redacted_thinking": _kind(_thinking, "data"),
}
