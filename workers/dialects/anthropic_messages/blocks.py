"""Turns hub content parts into Claude's content blocks, one block type at a time."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from broker.errors import InferenceError
from broker.v1 import content_pb2, generation_pb2
from workers.provider import Unreadable
from workers.standins import arguments_object, read_json
from workers.toolids import ToolIds

ISSUER = "anthropic_messages"
FILES_BETA = "files-api-2025-04-14"
Block = dict[str, Any]

_IMAGE_TYPES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})
_IMAGE_SPELLINGS = {"image/jpg": "image/jpeg", "image/pjpeg": "image/jpeg"}
# First bytes, for images whose sender named no type.
_IMAGE_MAGIC = (
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x89PNG", "image/png"),
    (b"GIF8", "image/gif"),
    (b"RIFF", "image/webp"),
)
_TEXT_TYPES = frozenset(
    {"application/json", "application/xml", "application/x-yaml", "application/yaml"}
)
# Fields of parts that Claude's blocks have and the hub does not type.
_DOCUMENT_FIELDS = ("title", "context", "citations")
_TOOL_USE_FIELDS = ("caller", "toolset_name")
_BAD_ID = re.compile(r"[^a-zA-Z0-9_-]")
# Claude names no limit of its own.
_LONGEST_ID = 1 << 20


@dataclass(slots=True)
class Writer:
    """Writes the blocks of one conversation; `betas` are the beta features they need."""

    ids: ToolIds = field(default_factory=lambda: ToolIds(_BAD_ID, _LONGEST_ID))
    betas: set[str] = field(default_factory=set)
    # Claude before 3.7 refuses thinking blocks.
    keeps_thinking: bool = True
    reads_addresses: bool = True
    # The caller speaks this format too: fields that nobody here knows go on all the same.
    verbatim: bool = False

    def blocks(self, part: content_pb2.Part, path: str) -> list[Block]:
        """The blocks of one part, at `path` of the request. Parts without content give none."""
        kind = part.WhichOneof("kind")
        write = _WRITERS.get(kind) if kind is not None else None
        written = write(self, part, path) if write is not None else []
        if written and part.cache_control:
            written[-1]["cache_control"] = read_json(part.cache_control, f"{path}.cache_control")
        return written

    def fields(
        self, part: content_pb2.Part, owner: str, names: tuple[str, ...], path: str
    ) -> Block:
        """The fields of a part that the hub does not type."""
        if self.verbatim:
            return {name: read_json(data, f"{path}.{name}") for name, data in part.extra.items()}
        return known_fields(part.extra, owner, names, path)

    def _text(self, part: content_pb2.Part, path: str) -> list[Block]:
        blocks = text_blocks(part.text.text)
        if blocks and part.extra:
            blocks[0] |= self.fields(part, "text", (), path)
        return blocks

    def _refusal(self, part: content_pb2.Part, path: str) -> list[Block]:
        return text_blocks(part.refusal.text)

    def _image(self, part: content_pb2.Part, path: str) -> list[Block]:
        image = part.image
        match image.WhichOneof("source"):
            case "url":
                source = self._address(image.url, path)
            case "file_id":
                source = self._file(image.file_id)
            case "inline":
                source = _inline_image(image.inline, path)
            case _:
                raise InferenceError("invalid_request", "The image has no source.", param=path)
        return [{"type": "image", "source": source} | self.fields(part, "image_url", (), path)]

    def _document(self, part: content_pb2.Part, path: str) -> list[Block]:
        file = part.file
        match file.WhichOneof("source"):
            case "url":
                source = self._address(file.url, path)
            case "file_id":
                source = self._file(file.file_id)
            case "inline":
                media_type = file.inline.media_type.partition(";")[0].strip().lower()
                if media_type.startswith("image/"):
                    return [{"type": "image", "source": _inline_image(file.inline, path)}]
                source = _inline_document(file.inline.data, media_type, path)
            case _:
                raise InferenceError("invalid_request", "The file has no source.", param=path)
        block: Block = {"type": "document", "source": source}
        if file.filename:
            block["title"] = file.filename
        return [block | self.fields(part, "file", _DOCUMENT_FIELDS, path)]

    def _address(self, url: str, path: str) -> Block:
        if not self.reads_addresses:
            raise Unreadable("Claude takes media inline here, as a data URL.", param=path)
        return {"type": "url", "url": url}

    def _file(self, file_id: str) -> Block:
        self.betas.add(FILES_BETA)
        return {"type": "file", "file_id": file_id}

    def _audio(self, part: content_pb2.Part, path: str) -> list[Block]:
        if part.audio.WhichOneof("source") == "inline":
            raise InferenceError(
                "unsupported_parameter",
                "Claude takes no audio input; send a transcript as text.",
                param=path,
            )
        return text_blocks(part.audio.transcript)

    def _tool_call(self, part: content_pb2.Part, path: str) -> list[Block]:
        call = part.tool_call
        block = {
            "type": "tool_use",
            "id": self.ids.for_call(call),
            "name": call.name,
            "input": arguments_object(call),
        }
        return [block | self.fields(part, "function", _TOOL_USE_FIELDS, path)]

    def _tool_result(self, part: content_pb2.Part, path: str) -> list[Block]:
        result = part.tool_result
        content = [
            block
            for number, piece in enumerate(result.parts)
            for block in self.blocks(piece, f"{path}[{number}]")
        ]
        block: Block = {"type": "tool_result", "tool_use_id": self.ids.for_result(result)}
        if len(content) == 1 and content[0].keys() == {"type", "text"}:
            block["content"] = content[0]["text"]
        elif content:
            block["content"] = content
        if result.is_error:
            block["is_error"] = True
        return [block | self.fields(part, "", (), path)]

    def _reasoning(self, part: content_pb2.Part, path: str) -> list[Block]:
        own = [blob for blob in part.reasoning.blobs if blob.issuer == ISSUER]
        if not self.keeps_thinking:
            return []
        signatures = [blob for blob in own if blob.kind == "signature"]
        written: list[Block] = []
        # Text of several blocks run together fits none of their signatures.
        if len(signatures) == 1:
            written.append(
                {
                    "type": "thinking",
                    "thinking": part.reasoning.text,
                    "signature": signatures[0].data.decode(errors="replace"),
                }
            )
        written += (
            {"type": "redacted_thinking", "data": blob.data.decode(errors="replace")}
            for blob in own
            if blob.kind == "redacted_thinking"
        )
        return written

    def _opaque(self, part: content_pb2.Part, path: str) -> list[Block]:
        if part.opaque.issuer != ISSUER:
            return []
        block = read_json(part.opaque.json, path)
        if not isinstance(block, dict):
            raise InferenceError("invalid_request", "The item is not a JSON object.", param=path)
        return [block]


_WRITERS: dict[str, Callable[[Writer, content_pb2.Part, str], list[Block]]] = {
    "text": Writer._text,
    "image": Writer._image,
    "audio": Writer._audio,
    "file": Writer._document,
    "tool_call": Writer._tool_call,
    "tool_result": Writer._tool_result,
    "reasoning": Writer._reasoning,
    "refusal": Writer._refusal,
    "opaque": Writer._opaque,
}


def is_own(request: generation_pb2.GenerateRequest) -> bool:
    """Whether the caller speaks this format: what it says in it goes on as it came."""
    return request.surface == generation_pb2.SURFACE_MESSAGES


def text_blocks(text: str) -> list[Block]:
    """A text block, or none: the API refuses blocks without a visible character."""
    return [{"type": "text", "text": text}] if text and not text.isspace() else []


def known_fields(extra: Any, owner: str, names: tuple[str, ...], path: str) -> Block:
    """Those untyped fields (a map of JSON by name) that the block has a place for.

    They stand in the part, or in the object `owner` within it, whose fields have dotted names.
    """
    found: Block = {}
    for name in names if extra else ():
        for key in (name, f"{owner}.{name}"):
            if key in extra:
                found[name] = read_json(extra[key], f"{path}.{key}")
    return found


def _inline_image(inline: content_pb2.InlineData, path: str) -> Block:
    media_type = inline.media_type.partition(";")[0].strip().lower()
    media_type = _IMAGE_SPELLINGS.get(media_type, media_type)
    if media_type in ("", "application/octet-stream", "image/*"):
        found = (kind for magic, kind in _IMAGE_MAGIC if inline.data.startswith(magic))
        media_type = next(found, media_type)
    if media_type not in _IMAGE_TYPES:
        raise InferenceError(
            "invalid_request",
            f"Claude takes JPEG, PNG, GIF and WebP images, not {media_type or 'an unnamed type'}.",
            param=path,
        )
    return {
        "type": "base64",
        "media_type": media_type,
        "data": base64.b64encode(inline.data).decode(),
    }


def _inline_document(data: bytes, media_type: str, path: str) -> Block:
    if media_type == "application/pdf" or data.startswith(b"%PDF-"):
        return {
            "type": "base64",
            "media_type": "application/pdf",
            "data": base64.b64encode(data).decode(),
        }
    unnamed = media_type in ("", "application/octet-stream")
    if unnamed or media_type.startswith("text/") or media_type in _TEXT_TYPES:
        try:
            text = data.decode()
        except UnicodeDecodeError:
            if not unnamed:
                raise InferenceError(
                    "invalid_request", "The text file is not UTF-8.", param=path
                ) from None
        else:
            return {"type": "text", "media_type": "text/plain", "data": text}
    raise InferenceError(
        "invalid_request",
        f"Claude takes PDF and text files, not {media_type or 'an unnamed type'}.",
        param=path,
    )
