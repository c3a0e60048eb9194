"""Translates the input items of a Responses request into the hub's messages.

What an assistant said in one turn (reasoning, messages, calls) is several items here and one
message in the hub. An item that only this API's own servers understand is carried whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import orjson

from broker.errors import InferenceError
from broker.items import RESPONSES
from broker.translate import fields
from broker.translate.media import is_data_url, read_base64, read_data_url
from broker.translate.refusals import invalid, json_text, missing
from broker.translate.responses_state import unseal
from broker.v1 import content_pb2, generation_pb2

_FUNCTION = content_pb2.TOOL_KIND_FUNCTION
_CUSTOM = content_pb2.TOOL_KIND_CUSTOM
_ASSISTANT = content_pb2.ROLE_ASSISTANT
_ROLES = {
    "user": content_pb2.ROLE_USER,
    "assistant": _ASSISTANT,
    "system": content_pb2.ROLE_SYSTEM,
    "developer": content_pb2.ROLE_DEVELOPER,
}
REFERENCE = "item_reference"
# Items of hosted tools and newer features: what the assistant did, and what the caller did for it.
_SAID = frozenset(
    {
        "apply_patch_call",
        "code_interpreter_call",
        "compaction",
        "computer_call",
        "file_search_call",
        "image_generation_call",
        "local_shell_call",
        "mcp_approval_request",
        "mcp_call",
        "mcp_list_tools",
        "program",
        "program_output",
        "shell_call",
        "tool_search_call",
        "web_search_call",
    }
)
_DONE_FOR_IT = frozenset(
    {
        "additional_tools",
        "apply_patch_call_output",
        "computer_call_output",
        "local_shell_call_output",
        "mcp_approval_response",
        "shell_call_output",
        "tool_search_output",
    }
)

_Item = dict[str, Any]
_Parts = Any  # the generated repeated types are private


def add_input(generate: generation_pb2.GenerateRequest, given: str | list[_Item]) -> None:
    """Add the messages of `input`."""
    if isinstance(given, str):
        message = generate.messages.add(role=content_pb2.ROLE_USER)
        message.parts.add().text.text = given
        return
    generate.messages.extend(messages_of(given, "input"))


def messages_of(items: list[_Item], where: str) -> list[content_pb2.Message]:
    """The messages that items stand for; `where` is the path of the list."""
    return joined(_message(item, f"{where}[{index}]") for index, item in enumerate(items))


def joined(messages: Iterable[content_pb2.Message]) -> list[content_pb2.Message]:
    """The messages with what an assistant said in one turn as one of them.

    Two texts stay two messages, unless calls stand between: those must be answered together.
    """
    turns: list[content_pb2.Message] = []
    for message in messages:
        if turns and _goes_on(turns[-1], message):
            whole = content_pb2.Message()
            whole.CopyFrom(turns[-1])
            whole.parts.extend(message.parts)
            turns[-1] = whole
        else:
            turns.append(message)
    return turns


def _goes_on(last: content_pb2.Message, message: content_pb2.Message) -> bool:
    if last.role != _ASSISTANT or message.role != _ASSISTANT:
        return False
    return _calls(last) or not (_speaks(last) and _speaks(message))


def _speaks(message: content_pb2.Message) -> bool:
    return any(part.HasField("text") or part.HasField("refusal") for part in message.parts)


def _calls(message: content_pb2.Message) -> bool:
    return any(part.HasField("tool_call") for part in message.parts)


def check_calls(messages: Iterable[content_pb2.Message]) -> None:
    """Every call has its output, and every output its call.

    Raises:
        InferenceError: invalid_request, `param` input.
    """
    open_calls: dict[str, None] = {}
    made: set[str | None] = set()
    for message in messages:
        for part in message.parts:
            if part.HasField("opaque"):
                if part.opaque.type == REFERENCE:
                    return  # what it refers to may be either
                made.add(orjson.loads(part.opaque.json).get("call_id"))
            if part.HasField("tool_call"):
                open_calls[part.tool_call.call_id] = None
                made.add(part.tool_call.call_id)
            elif part.HasField("tool_result"):
                call_id = part.tool_result.call_id
                if call_id not in made:
                    said = f"No tool call found for function call output with call_id {call_id}."
                    raise invalid("input", said, None)
                open_calls.pop(call_id, None)
    for call_id in open_calls:
        raise invalid("input", f"No tool output found for function call {call_id}.", None)


def _message(item: _Item, where: str) -> content_pb2.Message:
    kind = item.get("type")
    if kind is None:
        if "role" not in item:
            raise missing(f"{where}.type")
        kind = "message"
    message = content_pb2.Message()
    if isinstance(kind, str) and kind in _ITEMS:
        _ITEMS[kind](message, item, where)
    elif isinstance(kind, str) and (kind in _SAID or kind in _DONE_FOR_IT or kind == REFERENCE):
        if kind != REFERENCE:
            message.role = _ASSISTANT if kind in _SAID else content_pb2.ROLE_TOOL
        elif item.get("id") is None:
            raise missing(f"{where}.id")
        part = message.parts.add()
        part.item_id = fields.text(item, "id", where, default="")
        part.opaque.type = kind
        part.opaque.issuer = RESPONSES
        part.opaque.json = json_text(item, where)
    else:
        raise _unknown(kind, f"{where}.type", sorted({*_ITEMS, *_SAID, *_DONE_FOR_IT, REFERENCE}))
    return message


def _unknown(value: Any, param: str, words: Iterable[str]) -> InferenceError:
    known = ", ".join(f"'{word}'" for word in words)
    shown = repr(value)[:60]
    return invalid(param, f"Invalid value: {shown}. Supported values are: {known}.")


# --- messages ----------------------------------------------------------------------------------


def _said(message: content_pb2.Message, item: _Item, where: str) -> None:
    role = fields.text(item, "role", where)
    if role not in _ROLES:
        raise _unknown(role, f"{where}.role", _ROLES)
    message.role = _ROLES[role]
    item_id = fields.text(item, "id", where, default="")
    content = item.get("content")
    if content is None:
        raise missing(f"{where}.content")
    _add_content(message.parts, content, f"{where}.content")
    if message.role != _ASSISTANT:
        message.item_id = item_id
        return
    phase = fields.text(item, "phase", where, default="")
    for part in message.parts:
        part.item_id = item_id
        if phase and part.HasField("text"):
            part.text.phase = phase


def _add_content(parts: _Parts, content: Any, where: str) -> None:
    if isinstance(content, str):
        parts.add().text.text = content
        return
    if not isinstance(content, list):
        raise fields.wrong(where, "a string or an array")
    for index, entry in enumerate(content):
        place = f"{where}[{index}]"
        if not isinstance(entry, dict):
            raise fields.wrong(place, "an object")
        kind = entry.get("type")
        if kind is None:
            raise missing(f"{place}.type")
        if not isinstance(kind, str) or kind not in _PARTS:
            raise _unknown(kind, f"{place}.type", _PARTS)
        part = parts.add()
        _PARTS[kind](part, entry, place)
        for name in entry.keys() - _PART_FIELDS:
            if entry[name] is not None:
                part.extra[name] = json_text(entry[name], f"{place}.{name}")


def _part_text(part: content_pb2.Part, entry: _Item, where: str) -> None:
    part.text.text = fields.text(entry, "text", where)
    notes = entry.get("annotations")
    if isinstance(notes, list) and notes:
        part.text.annotations = json_text([_nested(note) for note in notes], where)


def _nested(note: Any) -> Any:
    """A citation of an address in the form that the hub's annotations have, which is chat's."""
    if not isinstance(note, dict) or note.get("type") != "url_citation" or "url" not in note:
        return note
    inner = {name: value for name, value in note.items() if name != "type"}
    return {"type": "url_citation", "url_citation": inner}


def _part_refusal(part: content_pb2.Part, entry: _Item, where: str) -> None:
    part.refusal.text = fields.text(entry, "refusal", where)


def _part_image(part: content_pb2.Part, entry: _Item, where: str) -> None:
    url = fields.text(entry, "image_url", where, default="")
    file_id = fields.text(entry, "file_id", where, default="")
    if is_data_url(url):
        read_data_url(part.image.inline, url, f"{where}.image_url")
    elif url:
        part.image.url = url
    elif file_id:
        part.image.file_id = file_id
    else:
        raise missing(f"{where}.image_url")
    if entry.get("detail") is not None:
        part.image.detail = fields.text(entry, "detail", where)


def _part_file(part: content_pb2.Part, entry: _Item, where: str) -> None:
    data = fields.text(entry, "file_data", where, default="")
    url = fields.text(entry, "file_url", where, default="")
    file_id = fields.text(entry, "file_id", where, default="")
    if is_data_url(data):
        read_data_url(part.file.inline, data, f"{where}.file_data")
    elif data:
        part.file.inline.data = read_base64(data, f"{where}.file_data")
    elif url:
        part.file.url = url
    elif file_id:
        part.file.file_id = file_id
    else:
        raise missing(f"{where}.file_data")
    if entry.get("filename") is not None:
        part.file.filename = fields.text(entry, "filename", where)


def _part_audio(part: content_pb2.Part, entry: _Item, where: str) -> None:
    audio = entry.get("input_audio")
    if audio is None:
        raise missing(f"{where}.input_audio")
    if not isinstance(audio, dict):
        raise fields.wrong(f"{where}.input_audio", "an object")
    place = f"{where}.input_audio"
    part.audio.format = fields.text(audio, "format", place)
    part.audio.inline.data = read_base64(fields.text(audio, "data", place), f"{place}.data")


# --- calls, their outputs, reasoning -----------------------------------------------------------


def _call(kind: content_pb2.ToolKind.ValueType, field: str) -> Callable[..., None]:
    def read(message: content_pb2.Message, item: _Item, where: str) -> None:
        message.role = _ASSISTANT
        part = message.parts.add()
        part.item_id = fields.text(item, "id", where, default="")
        call = part.tool_call
        call.kind = kind
        call.call_id = fields.text(item, "call_id", where)
        call.name = fields.text(item, "name", where)
        call.arguments = fields.text(item, field, where).encode()
        call.namespace = fields.text(item, "namespace", where, default="")

    return read


def _output(kind: content_pb2.ToolKind.ValueType) -> Callable[..., None]:
    def read(message: content_pb2.Message, item: _Item, where: str) -> None:
        message.role = content_pb2.ROLE_TOOL
        part = message.parts.add()
        part.item_id = fields.text(item, "id", where, default="")
        part.tool_result.kind = kind
        part.tool_result.call_id = fields.text(item, "call_id", where)
        output = item.get("output")
        if output is None:
            raise missing(f"{where}.output")
        _add_content(part.tool_result.parts, output, f"{where}.output")

    return read


def _reasoning(message: content_pb2.Message, item: _Item, where: str) -> None:
    message.role = _ASSISTANT
    part = message.parts.add()
    part.item_id = fields.text(item, "id", where, default="")
    hub = part.reasoning
    hub.summary.extend(_texts(item, "summary", where))
    hub.text = "".join(_texts(item, "content", where))
    state = fields.text(item, "encrypted_content", where, default="")
    if state:
        unseal(state, part.item_id, hub, f"{where}.encrypted_content")


def _texts(item: _Item, name: str, where: str) -> list[str]:
    """The texts of a list of text parts."""
    entries = item.get(name)
    if entries is None:
        return []
    if not isinstance(entries, list):
        raise fields.wrong(f"{where}.{name}", "an array")
    texts = []
    for index, entry in enumerate(entries):
        place = f"{where}.{name}[{index}]"
        if not isinstance(entry, dict):
            raise fields.wrong(place, "an object")
        texts.append(fields.text(entry, "text", place))
    return texts


def reference_of(message: content_pb2.Message) -> str:
    """The id of the stored item that a message stands for; "" for any other message."""
    if len(message.parts) != 1 or message.parts[0].opaque.type != REFERENCE:
        return ""
    return str(orjson.loads(message.parts[0].opaque.json)["id"])


_PARTS: dict[str, Callable[[content_pb2.Part, _Item, str], None]] = {
    "input_text": _part_text,
    "input_image": _part_image,
    "input_file": _part_file,
    "input_audio": _part_audio,
    "output_text": _part_text,
    "refusal": _part_refusal,
}
_PART_FIELDS = frozenset(
    {
        "annotations",
        "detail",
        "file_data",
        "file_id",
        "file_url",
        "filename",
        "image_url",
        "input_audio",
        "logprobs",
        "refusal",
        "text",
        "type",
    }
)
_ITEMS: dict[str, Callable[[content_pb2.Message, _Item, str], None]] = {
    "message": _said,
    "function_call": _call(_FUNCTION, "arguments"),
    "function_call_output": _output(_FUNCTION),
    "custom_tool_call": _call(_CUSTOM, "input"),
    "custom_tool_call_output": _output(_CUSTOM),
    "reasoning": _reasoning,
}
