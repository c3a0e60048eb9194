"""Turns the hub's messages into Cohere's."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import orjson

from broker.errors import InferenceError
from broker.v1 import content_pb2, generation_pb2
from workers.standins import arguments_object, read_json
from workers.toolids import ToolIds

Block = dict[str, Any]

# What this dialect calls itself on content that only it may get back.
ISSUER = "cohere_chat"
# Whose parts of kinds unknown to the hub are taken as the caller wrote them.
_CALLER = "openai_chat"

_ROLES = {
    content_pb2.ROLE_UNSPECIFIED: "user",
    content_pb2.ROLE_SYSTEM: "system",
    content_pb2.ROLE_DEVELOPER: "system",
    content_pb2.ROLE_USER: "user",
    content_pb2.ROLE_ASSISTANT: "assistant",
    content_pb2.ROLE_TOOL: "user",  # what is not a tool result in a tool turn
}
_ANY_ID = re.compile(r"[\x00-\x1f]")
_TEXT_TYPES = frozenset(
    {"application/json", "application/xml", "application/x-yaml", "application/yaml"}
)


@dataclass(slots=True)
class Writer:
    """Writes one conversation; `thinks` says where earlier reasoning goes back to."""

    thinks: bool
    messages: list[Block] = field(default_factory=list)
    _ids: ToolIds = field(default_factory=lambda: ToolIds(_ANY_ID, 256))

    def conversation(self, request: generation_pb2.GenerateRequest) -> list[Block]:
        """All messages in order; `InferenceError` with the path of what Cohere cannot take."""
        if request.responses.instructions:
            self.messages.append({"role": "system", "content": request.responses.instructions})
        for number, message in enumerate(request.messages):
            self._message(message, f"messages[{number}]")
        if not self.messages:
            raise InferenceError(
                "invalid_request", "There is no message with content.", param="messages"
            )
        return self.messages

    def _message(self, message: content_pb2.Message, path: str) -> None:
        role = _ROLES.get(message.role, "user")
        if role == "assistant":
            self._assistant(message, path)
            return
        content: list[Block] = []
        for number, part in enumerate(message.parts):
            where = f"{path}.content[{number}]"
            if part.HasField("tool_result"):
                self.messages.append(self._tool_result(part.tool_result, path))
            else:
                content += self._part(part, where)
        if not content:
            return
        if role == "system" and any(block["type"] != "text" for block in content):
            raise InferenceError(
                "invalid_request", "Cohere takes only text in system messages.", param=path
            )
        if message.name and message.role == content_pb2.ROLE_USER:
            _name_speaker(content, message.name)
        self.messages.append({"role": role, "content": _content(content)})

    def _assistant(self, message: content_pb2.Message, path: str) -> None:
        texts: list[str] = []
        thoughts: list[str] = []
        calls: list[Block] = []
        for number, part in enumerate(message.parts):
            match part.WhichOneof("kind"):
                case "tool_call":
                    calls.append(self._tool_call(part.tool_call))
                case "reasoning":
                    # State that belongs to another provider came with text that does too.
                    if not part.reasoning.blobs and part.reasoning.text:
                        thoughts.append(part.reasoning.text)
                case _:
                    blocks = self._part(part, f"{path}.content[{number}]")
                    texts += (block["text"] for block in blocks if block["type"] == "text")
        written: Block = {"role": "assistant"}
        content: list[Block] = []
        if thoughts and self.thinks:
            content.append({"type": "thinking", "thinking": "\n\n".join(thoughts)})
        content += ({"type": "text", "text": text} for text in texts)
        if content:
            written["content"] = _content(content)
        if calls:
            if thoughts and not self.thinks:
                written["tool_plan"] = "\n\n".join(thoughts)
            written["tool_calls"] = calls
        if len(written) > 1:
            self.messages.append(written)

    def _tool_call(self, call: content_pb2.ToolCall) -> Block:
        arguments = call.arguments.decode(errors="replace")
        if call.kind == content_pb2.TOOL_KIND_CUSTOM or not arguments.strip():
            arguments = orjson.dumps(arguments_object(call)).decode()
        return {
            "id": self._ids.for_call(call),
            "type": "function",
            "function": {"name": call.name, "arguments": arguments},
        }

    def _tool_result(self, result: content_pb2.ToolResult, path: str) -> Block:
        content: list[Block] = []
        for number, part in enumerate(result.parts):
            where = f"{path}.content[{number}]"
            blocks = self._part(part, where)
            if any(block["type"] == "image_url" for block in blocks):
                raise InferenceError(
                    "unsupported_parameter",
                    "Cohere takes text and documents as results of tools, no images.",
                    param=where,
                )
            content += blocks
        return {
            "role": "tool",
            "tool_call_id": self._ids.for_result(result),
            "content": _content(content),
        }

    def _part(self, part: content_pb2.Part, path: str) -> list[Block]:
        kind = part.WhichOneof("kind")
        write = _PARTS.get(kind) if kind is not None else None
        return write(part, path) if write is not None else []


def _content(blocks: list[Block]) -> str | list[Block]:
    """Text alone as a string, which is what every model takes."""
    if not blocks:
        return ""
    return blocks[0]["text"] if len(blocks) == 1 and "text" in blocks[0] else blocks


def _name_speaker(content: list[Block], name: str) -> None:
    """Cohere has no field for who of several users speaks."""
    first = next((block for block in content if block["type"] == "text"), None)
    if first is not None:
        first["text"] = f"{name}: {first['text']}"


def _text(part: content_pb2.Part, _path: str) -> list[Block]:
    text = part.text.text or part.refusal.text
    return [{"type": "text", "text": text}] if text else []


def _image(part: content_pb2.Part, path: str) -> list[Block]:
    image = part.image
    match image.WhichOneof("source"):
        case "url":
            url = image.url
        case "inline":
            url = _data_url(image.inline)
        case _:
            raise InferenceError(
                "unsupported_parameter", "Cohere takes images by URL or inline.", param=path
            )
    written: Block = {"url": url}
    if image.detail in ("auto", "low", "high"):
        written["detail"] = image.detail
    return [{"type": "image_url", "image_url": written}]


def _data_url(inline: content_pb2.InlineData) -> str:
    return (
        f"data:{inline.media_type or 'image/png'};base64,{base64.b64encode(inline.data).decode()}"
    )


def _file(part: content_pb2.Part, path: str) -> list[Block]:
    """Text files as text; there is no place for others."""
    file = part.file
    media_type = file.inline.media_type.partition(";")[0].strip().lower()
    if file.HasField("inline"):
        if media_type.startswith("image/"):
            url = _data_url(file.inline)
            return [{"type": "image_url", "image_url": {"url": url}}]
        if not media_type or media_type.startswith("text/") or media_type in _TEXT_TYPES:
            try:
                text = file.inline.data.decode()
            except UnicodeDecodeError:
                pass
            else:
                name = f"{file.filename}:\n" if file.filename else ""
                return [{"type": "text", "text": name + text}]
    raise InferenceError(
        "unsupported_parameter",
        "Cohere's chat takes text files only; send the text of other documents.",
        param=path,
    )


def _audio(part: content_pb2.Part, path: str) -> list[Block]:
    if part.audio.WhichOneof("source") == "inline":
        raise InferenceError(
            "unsupported_parameter",
            "Cohere takes no audio input; send a transcript as text.",
            param=path,
        )
    return [{"type": "text", "text": part.audio.transcript}] if part.audio.transcript else []


def _opaque(part: content_pb2.Part, path: str) -> list[Block]:
    """Cohere's own kind of part, as results of tools have them."""
    if part.opaque.issuer != _CALLER:
        return []
    if part.opaque.type != "document":
        raise InferenceError(
            "unsupported_parameter",
            f"Cohere takes no parts of type {part.opaque.type!r}.",
            param=path,
        )
    return [read_json(part.opaque.json, path)]


_PARTS: dict[str, Callable[[content_pb2.Part, str], list[Block]]] = {
    "text": _text,
    "refusal": _text,
    "image": _image,
    "file": _file,
    "audio": _audio,
    "opaque": _opaque,
}
