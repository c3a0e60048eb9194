"""Turns the messages of the hub into chat messages."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
import orjson

from broker.errors import InferenceError
from broker.v1 import content_pb2, generation_pb2

# What this dialect calls itself on content that only it may get back.
ISSUER = "openai_chat"

_ROLES = {
    content_pb2.ROLE_UNSPECIFIED: "user",
    content_pb2.ROLE_SYSTEM: "system",
    content_pb2.ROLE_DEVELOPER: "developer",
    content_pb2.ROLE_USER: "user",
    content_pb2.ROLE_ASSISTANT: "assistant",
    content_pb2.ROLE_TOOL: "user",  # what is not a tool result in a tool turn
}
_check_json = msgspec.json.Decoder(msgspec.Raw).decode


def fragment(value: bytes, param: str) -> orjson.Fragment:
    """JSON text as a value of the body, checked: a caller must not write other fields with it."""
    try:
        _check_json(value)
    except msgspec.DecodeError as exc:
        raise InferenceError("invalid_request", f"{param} is not JSON: {exc}", param=param) from exc
    return orjson.Fragment(value)


def merge(target: dict[str, Any], extra: Mapping[str, bytes], where: str = "") -> dict[str, Any]:
    """Adds fields that the hub does not know; what it does know wins.

    A dotted name such as `image_url.max_pixels` belongs into an object that is there.
    """
    for name, value in extra.items():
        owner, field = target, name
        while "." in field:
            head, rest = field.split(".", 1)
            inner = owner.get(head)
            if not isinstance(inner, dict):
                break
            owner, field = inner, rest
        if field not in owner:
            owner[field] = fragment(value, where + name)
    return target


def chat_messages(
    generate: generation_pb2.GenerateRequest, quirks: Mapping[str, str]
) -> list[dict[str, Any]]:
    """All messages in order; the instructions of a Responses request come first."""
    writer = _Writer(quirks)
    if generate.responses.HasField("instructions"):
        writer.messages.append({"role": "system", "content": generate.responses.instructions})
    for index, message in enumerate(generate.messages):
        writer.write(message, f"messages[{index}]")
    writer.flush()
    return writer.messages


class _Writer:
    """Writes message by message, and keeps back what may not stand between two tool results."""

    def __init__(self, quirks: Mapping[str, str]) -> None:
        self.messages: list[dict[str, Any]] = []
        self._quirks = quirks
        self._developer = quirks.get("developer_role", "developer")
        self._send_cache_control = quirks.get("cache_control") == "send"
        self._media: list[dict[str, Any]] = []

    def write(self, message: content_pb2.Message, where: str) -> None:
        rest: list[content_pb2.Part] = []
        for part in message.parts:
            if part.WhichOneof("kind") == "tool_result":
                self.messages.append(self._tool_result(part.tool_result, message, where))
            else:
                rest.append(part)
        if rest or len(rest) == len(message.parts):
            self.flush()
            if message.role == content_pb2.ROLE_ASSISTANT:
                written = self._assistant(rest, where)
            else:
                role = _ROLES.get(message.role, "user")
                if role == "developer":
                    role = self._developer
                written = {"role": role, "content": self._content(rest, where)}
            if message.HasField("name"):
                written["name"] = message.name
            self.messages.append(merge(written, message.extra, where + "."))

    def flush(self) -> None:
        """Media of tool results follow in a user message: chat takes text alone in a result."""
        if self._media:
            self.messages.append({"role": "user", "content": self._media})
            self._media = []

    def _tool_result(
        self, result: content_pb2.ToolResult, message: content_pb2.Message, where: str
    ) -> dict[str, Any]:
        text = [part for part in result.parts if part.HasField("text")]
        other = [part for part in result.parts if not part.HasField("text")]
        if other:
            self._media += self._parts(other, where)
        content = self._content(text, where)
        if result.legacy_function:
            written = {"role": "function", "name": result.name, "content": content}
        else:
            written = {"role": "tool", "tool_call_id": result.call_id, "content": content}
            if result.name:
                written["name"] = result.name
        # A message of several results has no single owner of its extra fields.
        return merge(written, message.extra, where + ".") if len(message.parts) == 1 else written

    def _assistant(self, parts: Iterable[content_pb2.Part], where: str) -> dict[str, Any]:
        said: list[content_pb2.Part] = []
        calls: list[dict[str, Any]] = []
        written: dict[str, Any] = {"role": "assistant", "content": None}
        for part in parts:
            kind = part.WhichOneof("kind")
            if kind == "tool_call":
                if part.tool_call.legacy_function:
                    written["function_call"] = _function(part.tool_call)
                else:
                    calls.append(merge(_tool_call(part.tool_call), part.extra, where + "."))
            elif kind == "reasoning":
                # OpenAI refuses reasoning in a chat message; some others ask for it.
                field = self._quirks.get("reasoning_field")
                if field and part.reasoning.text:
                    written[field] = written.get(field, "") + part.reasoning.text
            elif kind == "refusal":
                written["refusal"] = written.get("refusal", "") + part.refusal.text
            elif kind == "audio" and part.audio.HasField("id"):
                written["audio"] = {"id": part.audio.id}
            else:
                said.append(part)
                if part.text.annotations:
                    written["annotations"] = fragment(part.text.annotations, f"{where}.annotations")
        if calls:
            written["tool_calls"] = calls
        # Only a call, a refusal or an audio answer may stand without content.
        if said or not written.keys() & {"tool_calls", "function_call", "refusal", "audio"}:
            written["content"] = self._content(said, where)
        return written

    def _content(self, parts: list[content_pb2.Part], where: str) -> str | list[dict[str, Any]]:
        """The parts; a single plain text is a string, which every server understands."""
        if not parts:
            return ""
        written = self._parts(parts, where)
        if len(written) == 1 and written[0].keys() == {"type", "text"}:
            text: str = written[0]["text"]
            return text
        return written or ""

    def _parts(self, parts: Iterable[content_pb2.Part], where: str) -> list[dict[str, Any]]:
        written: list[dict[str, Any]] = []
        for index, part in enumerate(parts):
            one = _part(part, f"{where}.content[{index}]")
            if one is None:
                continue
            if part.extra:
                merge(one, part.extra, f"{where}.content[{index}].")
            if part.cache_control and self._send_cache_control:
                one["cache_control"] = fragment(part.cache_control, f"{where}.cache_control")
            written.append(one)
        return written


def _part(part: content_pb2.Part, where: str) -> dict[str, Any] | None:
    """One content part; None for what belongs to another dialect."""
    kind = part.WhichOneof("kind")
    if kind == "text":
        return {"type": "text", "text": part.text.text}
    if kind == "image":
        return _image(part.image)
    if kind == "audio":
        data = base64.b64encode(part.audio.inline.data).decode()
        return {"type": "input_audio", "input_audio": {"data": data, "format": part.audio.format}}
    if kind == "file":
        return _file(part.file)
    if kind == "refusal":
        return {"type": "refusal", "refusal": part.refusal.text}
    if kind == "opaque" and part.opaque.issuer == ISSUER:
        return _opaque(part.opaque, where)
    return None


def _opaque(opaque: content_pb2.Opaque, where: str) -> dict[str, Any]:
    try:
        value = orjson.loads(opaque.json)
    except orjson.JSONDecodeError as exc:
        raise InferenceError("invalid_request", f"{where} is not JSON: {exc}", param=where) from exc
    return value if isinstance(value, dict) else {"type": opaque.type}


def _image(image: content_pb2.Image) -> dict[str, Any]:
    source = image.WhichOneof("source")
    if source == "file_id":
        return {"type": "file", "file": {"file_id": image.file_id}}
    url = image.url if source == "url" else _data_url(image.inline, "image/png")
    written = {"url": url}
    if image.HasField("detail"):
        written["detail"] = image.detail
    return {"type": "image_url", "image_url": written}


def _file(file: content_pb2.File) -> dict[str, Any]:
    source = file.WhichOneof("source")
    if source == "file_id":
        written = {"file_id": file.file_id}
    else:
        # Few servers fetch an address; the others say so better than we could.
        written = {"file_data": file.url if source == "url" else _data_url(file.inline, "")}
    if file.HasField("filename"):
        written["filename"] = file.filename
    return {"type": "file", "file": written}


def _data_url(inline: content_pb2.InlineData, fallback: str) -> str:
    data = base64.b64encode(inline.data).decode()
    media_type = inline.media_type or fallback
    return f"data:{media_type};base64,{data}" if media_type else data


def _tool_call(call: content_pb2.ToolCall) -> dict[str, Any]:
    if call.kind == content_pb2.TOOL_KIND_CUSTOM:
        custom = {"name": call.name, "input": call.arguments.decode("utf-8", "replace")}
        return {"id": call.call_id, "type": "custom", "custom": custom}
    return {"id": call.call_id, "type": "function", "function": _function(call)}


def _function(call: content_pb2.ToolCall) -> dict[str, Any]:
    return {"name": call.name, "arguments": call.arguments.decode("utf-8", "replace")}
