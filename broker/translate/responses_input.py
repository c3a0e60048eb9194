"""Renders what a request said as the input items of its response."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import Raw

from broker.items import grouped, name_messages, name_of
from broker.translate.responses_items import COMPLETED, item
from broker.v1 import content_pb2, stored_pb2

_json = msgspec.json.Encoder().encode

_ROLES = {
    content_pb2.ROLE_SYSTEM: "system",
    content_pb2.ROLE_DEVELOPER: "developer",
    content_pb2.ROLE_USER: "user",
}
_CUSTOM = content_pb2.TOOL_KIND_CUSTOM


def input_items(stored: stored_pb2.StoredResponse) -> list[bytes]:
    """The items of the response's own input, in order, each with an id."""
    return [_json(shown) for shown in items_of(stored.request.generate.messages, stored.id)]


def items_of(messages: Iterable[content_pb2.Message], owner: str) -> list[Any]:
    """Items for messages; those that came without an id get one from `owner` and their position."""
    named = [_copy(message) for message in messages]
    name_messages(named, owner)
    items: list[Any] = []
    for message in named:
        if message.role == content_pb2.ROLE_ASSISTANT:
            items += (
                item(group, name_of(group, owner, ""), COMPLETED, with_state=True)
                for group in grouped(message.parts, with_state=True)
            )
            continue
        rest: list[content_pb2.Part] = []
        for part in message.parts:
            if part.HasField("tool_result"):
                items.append(_result(part))
            elif part.HasField("opaque"):
                items.append(Raw(part.opaque.json))
            else:
                rest.append(part)
        if rest or not message.parts:
            items.append(_message(message, rest))
    return items


def _copy(message: content_pb2.Message) -> content_pb2.Message:
    copied = content_pb2.Message()
    copied.CopyFrom(message)
    return copied


def _message(message: content_pb2.Message, parts: list[content_pb2.Part]) -> dict[str, Any]:
    return {
        "id": message.item_id,
        "type": "message",
        "status": COMPLETED,
        "content": _content(parts),
        "role": _ROLES.get(message.role, "user"),
    }


def _result(part: content_pb2.Part) -> dict[str, Any]:
    result = part.tool_result
    kind = "custom_tool_call_output" if result.kind == _CUSTOM else "function_call_output"
    output: Any = _content(result.parts)
    if len(output) == 1 and output[0].keys() == {"type", "text"}:
        output = output[0]["text"]
    return {
        "id": part.item_id,
        "type": kind,
        "status": COMPLETED,
        "call_id": result.call_id,
        "output": output or "",
    }


def _content(parts: Iterable[content_pb2.Part]) -> list[dict[str, Any]]:
    content = []
    for part in parts:
        kind = part.WhichOneof("kind")
        if kind in _PARTS:
            content.append(_PARTS[kind](getattr(part, kind)))
    return content


def _image(image: content_pb2.Image) -> dict[str, Any]:
    written: dict[str, Any] = {
        "type": "input_image",
        "detail": image.detail if image.HasField("detail") else "auto",
    }
    if image.HasField("file_id"):
        written["file_id"] = image.file_id
    else:
        written["image_url"] = image.url or _data_url(image.inline, "image/png")
    return written


def _file(file: content_pb2.File) -> dict[str, Any]:
    written: dict[str, Any] = {"type": "input_file"}
    if file.HasField("filename"):
        written["filename"] = file.filename
    if file.HasField("file_id"):
        written["file_id"] = file.file_id
    elif file.HasField("url"):
        written["file_url"] = file.url
    else:
        written["file_data"] = _data_url(file.inline, "application/octet-stream")
    return written


def _audio(audio: content_pb2.Audio) -> dict[str, Any]:
    data = b64encode(audio.inline.data).decode()
    return {"type": "input_audio", "input_audio": {"data": data, "format": audio.format}}


def _data_url(inline: content_pb2.InlineData, fallback: str) -> str:
    data = b64encode(inline.data).decode()
    return f"data:{inline.media_type or fallback};base64,{data}"


_PARTS: dict[str, Any] = {
    "text": lambda text: {"type": "input_text", "text": text.text},
    "refusal": lambda refusal: {"type": "input_text", "text": refusal.text},
    "image": _image,
    "file": _file,
    "audio": _audio,
}
