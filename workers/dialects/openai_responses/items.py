"""Writes the hub's messages as input items."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterable
from typing import Any

from broker.v1 import content_pb2, generation_pb2
from workers.fragments import fragment, merge
from workers.toolids import ToolIds

# What this dialect calls itself on content that only it may get back.
ISSUER = "openai_responses"

# Ids of calls that other providers issued may be anything; here they are taken as they are.
_REFUSED = re.compile(r"[^\x21-\x7e]")
_CUSTOM = content_pb2.TOOL_KIND_CUSTOM
_ROLES = {
    content_pb2.ROLE_SYSTEM: "system",
    content_pb2.ROLE_DEVELOPER: "developer",
    content_pb2.ROLE_USER: "user",
}
_Item = Any


def input_items(generate: generation_pb2.GenerateRequest, *, plain_reasoning: bool) -> list[_Item]:
    """The field `input`; `plain_reasoning` sends earlier reasoning back as text too."""
    writer = _Writer(plain_reasoning)
    for index, message in enumerate(generate.messages):
        writer.write(message, f"messages[{index}]")
    return writer.items


class _Writer:
    def __init__(self, plain_reasoning: bool) -> None:
        self.items: list[_Item] = []
        self._plain_reasoning = plain_reasoning
        self._ids = ToolIds(_REFUSED)

    def write(self, message: content_pb2.Message, where: str) -> None:
        said: list[content_pb2.Part] = []
        for index, part in enumerate(message.parts):
            kind = part.WhichOneof("kind")
            if kind not in _ALONE:
                said.append(part)
                continue
            self._message(message, said, where)
            said = []
            _ALONE[kind](self, part, f"{where}.content[{index}]")
        self._message(message, said, where)

    def _message(
        self, message: content_pb2.Message, parts: list[content_pb2.Part], where: str
    ) -> None:
        if message.role == content_pb2.ROLE_ASSISTANT:
            self._assistant(parts)
        elif parts:
            name = message.name if message.role == content_pb2.ROLE_USER else ""
            content = _content(parts, where)
            if name:
                content = _after(f"{name}: ", content)
            role = _ROLES.get(message.role, "user")
            self.items.append({"role": role, "content": _plain(content)})

    def _assistant(self, parts: Iterable[content_pb2.Part]) -> None:
        """One message for each text that has a phase of its own, else one for all."""
        content: list[dict[str, Any]] = []
        phase = ""
        for part in parts:
            if part.HasField("refusal"):
                content.append({"type": "refusal", "refusal": part.refusal.text})
            elif part.HasField("text"):
                if content and part.text.phase != phase:
                    self._say(content, phase)
                    content = []
                phase = part.text.phase
                content.append({"type": "output_text", "text": part.text.text})
            elif part.HasField("audio") and part.audio.transcript:
                content.append({"type": "output_text", "text": part.audio.transcript})
        if content:
            self._say(content, phase)

    def _say(self, content: list[dict[str, Any]], phase: str) -> None:
        only = content[0] if len(content) == 1 else {}
        written: dict[str, Any] = {"role": "assistant", "content": only.get("text", content)}
        if phase:
            written["phase"] = phase
        self.items.append(written)

    def _call(self, part: content_pb2.Part, _where: str) -> None:
        call = part.tool_call
        custom = call.kind == _CUSTOM
        written = {
            "type": "custom_tool_call" if custom else "function_call",
            "call_id": self._ids.for_call(call),
            "name": call.name,
            "input" if custom else "arguments": call.arguments.decode("utf-8", "replace"),
        }
        if call.namespace:
            written["namespace"] = call.namespace
        self.items.append(written)

    def _result(self, part: content_pb2.Part, where: str) -> None:
        result = part.tool_result
        custom = result.kind == _CUSTOM
        self.items.append(
            {
                "type": "custom_tool_call_output" if custom else "function_call_output",
                "call_id": self._ids.for_result(result),
                "output": _plain(_content(result.parts, where)),
            }
        )

    def _reasoning(self, part: content_pb2.Part, _where: str) -> None:
        reasoning = part.reasoning
        state = {
            blob.kind: blob.data.decode("utf-8", "replace")
            for blob in reasoning.blobs
            if blob.issuer == ISSUER
        }
        written: dict[str, Any] = {
            "type": "reasoning",
            "summary": [{"type": "summary_text", "text": text} for text in reasoning.summary],
        }
        if state.get("encrypted_content"):
            # The content is bound to the id that it came under.
            if state.get("item_id"):
                written["id"] = state["item_id"]
            written["encrypted_content"] = state["encrypted_content"]
        elif self._plain_reasoning and reasoning.text:
            written["content"] = [{"type": "reasoning_text", "text": reasoning.text}]
        else:
            return
        self.items.append(written)

    def _opaque(self, part: content_pb2.Part, where: str) -> None:
        if part.opaque.issuer == ISSUER:
            self.items.append(fragment(part.opaque.json, where))


def _plain(content: list[dict[str, Any]]) -> Any:
    """A single text as a string, which every server knows."""
    if len(content) == 1 and content[0].keys() == {"type", "text"}:
        return content[0]["text"]
    return content or ""


def _after(told: str, content: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The content with a text before it."""
    if content and content[0].keys() == {"type", "text"}:
        return [{**content[0], "text": told + content[0]["text"]}, *content[1:]]
    return [{"type": "input_text", "text": told}, *content]


def _content(parts: Iterable[content_pb2.Part], where: str) -> list[dict[str, Any]]:
    content = []
    for part in parts:
        kind = part.WhichOneof("kind")
        if kind in _PARTS:
            written = _PARTS[kind](getattr(part, kind))
            content.append(merge(written, part.extra, where + ".") if part.extra else written)
    return content


def _image(image: content_pb2.Image) -> dict[str, Any]:
    written: dict[str, Any] = {"type": "input_image"}
    if image.HasField("file_id"):
        written["file_id"] = image.file_id
    else:
        written["image_url"] = image.url or _data_url(image.inline, "image/png")
    if image.HasField("detail"):
        written["detail"] = image.detail
    return written


def _file(file: content_pb2.File) -> dict[str, Any]:
    written: dict[str, Any] = {"type": "input_file"}
    if file.HasField("file_id"):
        written["file_id"] = file.file_id
    elif file.HasField("url"):
        written["file_url"] = file.url
    else:
        # A file needs a name here.
        written["filename"] = "file.pdf"
        written["file_data"] = _data_url(file.inline, "application/pdf")
    if file.HasField("filename"):
        written["filename"] = file.filename
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
# Parts that are items of their own.
_ALONE: dict[str | None, Any] = {
    "tool_call": _Writer._call,
    "tool_result": _Writer._result,
    "reasoning": _Writer._reasoning,
    "opaque": _Writer._opaque,
}
