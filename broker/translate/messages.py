"""Translates the messages of a chat request into the hub model.

Unknown fields stay where they stood, in `extra` of the message or part; those of an object inside
a part are kept there under a dotted name such as `image_url.max_pixels`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from broker.translate import carry, wire
from broker.translate.media import is_address, is_data_url, read_base64, read_data_url
from broker.translate.refusals import invalid, json_text, missing
from broker.v1 import content_pb2, generation_pb2

_FUNCTION = content_pb2.TOOL_KIND_FUNCTION
_CUSTOM = content_pb2.TOOL_KIND_CUSTOM

_ROLES = {
    "system": content_pb2.ROLE_SYSTEM,
    "developer": content_pb2.ROLE_DEVELOPER,
    "user": content_pb2.ROLE_USER,
    "assistant": content_pb2.ROLE_ASSISTANT,
    "tool": content_pb2.ROLE_TOOL,
    "function": content_pb2.ROLE_TOOL,
}
_RESULTS = frozenset({"tool", "function"})

Extra = Any  # the generated map types are private
_Parts = Any


def add_messages(
    generate: generation_pb2.GenerateRequest, messages: Sequence[wire.Message], source: list[Any]
) -> None:
    """Add `messages`; `source` is the same list as it was parsed, for the fields unknown here."""
    add = generate.messages.add
    for index, message in enumerate(messages):
        raw = source[index]
        hub = add()
        role = message.role
        hub.role = _ROLES[role]
        content = message.content
        if len(raw) == 2 and isinstance(content, str) and role not in _RESULTS:
            hub.parts.add().text.text = content
        else:
            _TRANSLATE[role](hub, message, raw, f"messages[{index}]")


def _keep(extra: Extra, raw: dict[str, Any], known: frozenset[str], where: str) -> None:
    """Keep the fields that are not known here; null counts as unset."""
    if raw.keys() <= known:
        return
    for name in raw.keys() - known:
        if raw[name] is not None:
            extra[name] = json_text(raw[name], f"{where}.{name}")


def _keep_nested(extra: Extra, owner: str, raw: Any, known: frozenset[str], where: str) -> None:
    if raw.keys() <= known:
        return
    for name in raw.keys() - known:
        if raw[name] is not None:
            extra[f"{owner}.{name}"] = json_text(raw[name], f"{where}.{owner}.{name}")


# --- parts -------------------------------------------------------------------------------------


def _text(hub: content_pb2.Part, part: wire.ContentPart, _raw: Any, where: str) -> None:
    if part.text is None:
        raise missing(f"{where}.text")
    hub.text.text = part.text


def _refusal(hub: content_pb2.Part, part: wire.ContentPart, _raw: Any, where: str) -> None:
    if part.refusal is None:
        raise missing(f"{where}.refusal")
    hub.refusal.text = part.refusal


_IMAGE_URL = frozenset(wire.ImageUrl.__struct_fields__)


def _image(hub: content_pb2.Part, part: wire.ContentPart, raw: Any, where: str) -> None:
    image = part.image_url
    if image is None:
        raise missing(f"{where}.image_url")
    if isinstance(image, str):
        url = image
    else:
        url = image.url
        if image.detail is not None:
            hub.image.detail = image.detail
        _keep_nested(hub.extra, "image_url", raw["image_url"], _IMAGE_URL, where)
    if is_data_url(url):
        read_data_url(hub.image.inline, url, f"{where}.image_url.url")
    elif url:
        hub.image.url = url
    else:
        message = f"Invalid '{where}.image_url.url': expected an http(s) or data URL."
        raise invalid(f"{where}.image_url.url", message, "invalid_image_url")


_INPUT_AUDIO = frozenset(wire.InputAudio.__struct_fields__)


def _audio(hub: content_pb2.Part, part: wire.ContentPart, raw: Any, where: str) -> None:
    audio = part.input_audio
    if audio is None:
        raise missing(f"{where}.input_audio")
    hub.audio.format = audio.format
    _read_data(hub.audio.inline, audio.data, f"{where}.input_audio.data")
    _keep_nested(hub.extra, "input_audio", raw["input_audio"], _INPUT_AUDIO, where)


_INPUT_FILE = frozenset(wire.InputFile.__struct_fields__)


def _file(hub: content_pb2.Part, part: wire.ContentPart, raw: Any, where: str) -> None:
    file = part.file
    if file is None:
        raise missing(f"{where}.file")
    if file.file_data is not None:
        if is_address(file.file_data):
            hub.file.url = file.file_data
        else:
            _read_data(hub.file.inline, file.file_data, f"{where}.file.file_data")
    elif file.file_id is not None:
        hub.file.file_id = file.file_id
    else:
        raise missing(f"{where}.file.file_data")
    if file.filename is not None:
        hub.file.filename = file.filename
    _keep_nested(hub.extra, "file", raw["file"], _INPUT_FILE, where)


def _read_data(inline: content_pb2.InlineData, text: str, param: str) -> None:
    if is_data_url(text):
        read_data_url(inline, text, param)
    else:
        inline.data = read_base64(text, param)


def _thinking(hub: content_pb2.Part, _part: wire.ContentPart, raw: Any, where: str) -> None:
    hub.CopyFrom(carry.read_thinking(raw, where))


class _PartKind(NamedTuple):
    translate: Callable[[content_pb2.Part, wire.ContentPart, Any, str], None]
    fields: frozenset[str]


def _kind(
    translate: Callable[[content_pb2.Part, wire.ContentPart, Any, str], None], *fields: str
) -> _PartKind:
    return _PartKind(translate, frozenset({"type", "cache_control", *fields}))


_PARTS = {
    "text": _kind(_text, "text"),
    "image_url": _kind(_image, "image_url"),
    "input_audio": _kind(_audio, "input_audio"),
    "file": _kind(_file, "file"),
    "refusal": _kind(_refusal, "refusal"),
    "thinking": _kind(_thinking, "thinking", "signature"),
    "redacted_thinking": _kind(_thinking, "data"),
}


def _add_content(
    parts: _Parts, content: str | list[wire.ContentPart], source: Any, where: str
) -> None:
    if isinstance(content, str):
        parts.add().text.text = content
        return
    for index, part in enumerate(content):
        raw, hub = source[index], parts.add()
        if len(raw) == 2 and part.type == "text" and part.text is not None:
            hub.text.text = part.text
            continue
        place = f"{where}.content[{index}]"
        kind = _PARTS.get(part.type)
        if kind is None:
            # Some providers know more kinds than OpenAI (video_url); theirs go on whole.
            hub.opaque.type = part.type
            hub.opaque.issuer = carry.OPENAI_CHAT
            hub.opaque.json = json_text(raw, place)
            continue
        kind.translate(hub, part, raw, place)
        if part.cache_control is not None:
            hub.cache_control = json_text(part.cache_control, f"{place}.cache_control")
        _keep(hub.extra, raw, kind.fields, place)


# --- messages ----------------------------------------------------------------------------------


def _mark(hub: content_pb2.Message, message: wire.Message, where: str) -> None:
    """A cache marker on the message stands for one on its last part."""
    if message.cache_control is not None and hub.parts and not hub.parts[-1].cache_control:
        marker = json_text(message.cache_control, f"{where}.cache_control")
        hub.parts[-1].cache_control = marker


_SPOKEN_FIELDS = frozenset({"role", "content", "name", "cache_control"})


def _spoken(hub: content_pb2.Message, message: wire.Message, raw: Any, where: str) -> None:
    """A system, developer or user message."""
    if message.content is None:
        raise missing(f"{where}.content")
    if not message.content and not isinstance(message.content, str):
        text = f"Invalid '{where}.content': empty array. Expected at least 1 element."
        raise invalid(f"{where}.content", text, "empty_array")
    _add_content(hub.parts, message.content, raw["content"], where)
    if message.name is not None:
        hub.name = message.name
    _mark(hub, message, where)
    _keep(hub.extra, raw, _SPOKEN_FIELDS, where)


_TOOL_FIELDS = _SPOKEN_FIELDS | {"tool_call_id"}


def _tool(hub: content_pb2.Message, message: wire.Message, raw: Any, where: str) -> None:
    """The result of a tool call, also in its legacy form (role `function`)."""
    part = hub.parts.add()
    result = part.tool_result
    if message.role == "function":
        if message.name is None:
            raise missing(f"{where}.name")
        result.legacy_function = True
        result.kind = _FUNCTION
    elif message.tool_call_id is None:
        raise missing(f"{where}.tool_call_id")
    if message.tool_call_id is not None:
        result.call_id = message.tool_call_id
    if message.name is not None:
        result.name = message.name
    # Null is how many clients say that a tool returned nothing.
    content = "" if message.content is None else message.content
    _add_content(result.parts, content, raw.get("content"), where)
    _mark(hub, message, where)
    _keep(hub.extra, raw, _TOOL_FIELDS, where)


_CALL_FIELDS = frozenset(wire.ToolCall.__struct_fields__)
_FUNCTION_CALL = frozenset(wire.FunctionCall.__struct_fields__)
_CUSTOM_CALL = frozenset(wire.CustomCall.__struct_fields__)


def _add_call(part: content_pb2.Part, call: wire.ToolCall, raw: Any, where: str) -> None:
    hub = part.tool_call
    hub.call_id = call.id
    if call.type == "custom":
        if call.custom is None:
            raise missing(f"{where}.custom")
        _keep_nested(part.extra, "custom", raw["custom"], _CUSTOM_CALL, where)
        hub.kind = _CUSTOM
        hub.name = call.custom.name
        hub.arguments = (call.custom.input or "").encode()
    elif call.type in ("function", None):  # Mistral's calls have no type
        if call.function is None:
            raise missing(f"{where}.function")
        _keep_nested(part.extra, "function", raw["function"], _FUNCTION_CALL, where)
        hub.kind = _FUNCTION
        hub.name = call.function.name
        hub.arguments = (call.function.arguments or "").encode()
    else:
        raise invalid(
            f"{where}.type",
            f"Invalid value: '{call.type}'. Supported values are: 'function', 'custom'.",
        )
    _keep(part.extra, raw, _CALL_FIELDS, where)


_ASSISTANT_FIELDS = frozenset(wire.Message.__struct_fields__) - {"tool_call_id"}


def _assistant(hub: content_pb2.Message, message: wire.Message, raw: Any, where: str) -> None:
    """An answer of an earlier turn, in the order in which the model said it."""
    known = _ASSISTANT_FIELDS
    carried = _carried(message, where)
    text, other = message.reasoning_content, raw.get("reasoning")
    if isinstance(other, str) and text in (None, other):
        # What Groq, OpenRouter and vLLM call reasoning_content; some clients send both.
        text, known = other, known | {"reasoning"}
    if text and not _thought(message, carried):
        hub.parts.add().reasoning.text = text
    before = [item for item in carried if not item.after_tool_calls]
    _add_said(hub, message, raw, before, where)
    calls = message.tool_calls or ()
    late = [item for item in carried if item.after_tool_calls]
    for index, call in enumerate(calls):
        _add_call(hub.parts.add(), call, raw["tool_calls"][index], f"{where}.tool_calls[{index}]")
        hub.parts.extend(item.part for item in late if item.after_tool_calls == index + 1)
    hub.parts.extend(item.part for item in late if item.after_tool_calls > len(calls))
    if message.function_call is not None:
        called = hub.parts.add().tool_call
        called.name = message.function_call.name
        called.arguments = (message.function_call.arguments or "").encode()
        called.kind = _FUNCTION
        called.legacy_function = True
    if message.content == "" and not hub.parts:
        # Beside anything else an empty string means no text; alone it is an empty answer.
        hub.parts.add().text.SetInParent()
    if message.name is not None:
        hub.name = message.name
    _mark(hub, message, where)
    _keep(hub.extra, raw, known, where)


def _thought(message: wire.Message, carried: Iterable[carry.Carried]) -> bool:
    """Whether the reasoning is there in a form that says more than plain text."""
    if any(item.part.reasoning.text or item.part.reasoning.summary for item in carried):
        return True
    content = message.content
    return isinstance(content, list) and any(part.type == "thinking" for part in content)


def _carried(message: wire.Message, where: str) -> list[carry.Carried]:
    if message.reasoning_details:
        return carry.read_details(message.reasoning_details, f"{where}.reasoning_details")
    if message.thinking_blocks:
        return carry.read_thinking_blocks(message.thinking_blocks, f"{where}.thinking_blocks")
    return []


def _add_said(
    hub: content_pb2.Message,
    message: wire.Message,
    raw: Any,
    carried: Iterable[carry.Carried],
    where: str,
) -> None:
    """Content, refusal and audio, with what was thought before or between them."""
    content = message.content
    first = len(hub.parts)
    if isinstance(content, str):
        said = 0
        for item in carried:
            if item.after_text > said and content[said : item.after_text]:
                hub.parts.add().text.text = content[said : item.after_text]
                said = item.after_text
            hub.parts.append(item.part)
        if content[said:]:
            hub.parts.add().text.text = content[said:]
    else:
        hub.parts.extend(item.part for item in carried)
        if content:
            _add_content(hub.parts, content, raw["content"], where)
    if message.annotations:
        _annotate(hub, first, message.annotations, where)
    if message.refusal is not None:
        hub.parts.add().refusal.text = message.refusal
    if message.audio is not None:
        audio = hub.parts.add().audio
        audio.id = message.audio.id
        audio.transcript = message.audio.transcript or ""


def _annotate(
    hub: content_pb2.Message, first: int, annotations: list[dict[str, Any]], where: str
) -> None:
    notes = json_text(annotations, f"{where}.annotations")
    for part in hub.parts[first:]:
        if part.HasField("text"):
            part.text.annotations = notes
            return
    hub.extra["annotations"] = notes


_TRANSLATE = {
    "system": _spoken,
    "developer": _spoken,
    "user": _spoken,
    "assistant": _assistant,
    "tool": _tool,
    "function": _tool,
}
