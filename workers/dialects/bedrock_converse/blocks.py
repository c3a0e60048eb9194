"""Turns hub content parts into Converse's content blocks, one kind of part at a time."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

import orjson

from broker.errors import InferenceError
from broker.v1 import content_pb2
from workers.dialects.bedrock_converse import media
from workers.dialects.bedrock_converse.families import Facts
from workers.dialects.bedrock_converse.media import Block
from workers.standins import arguments_object, read_json
from workers.toolids import ToolIds

# What this dialect calls itself on content that only it may get back.
ISSUER = "bedrock_converse"
# Kinds of blobs.
SIGNATURE = "signature"
REDACTED = "redacted_content"
# Whose parts of kinds unknown to the hub come from the caller.
_CALLER = "openai_chat"

_NOT_IN_AN_ID = re.compile(r"[^a-zA-Z0-9_.:-]")
_LONGEST_ID = 64


@dataclass(slots=True)
class Writer:
    """Writes the blocks of one conversation with a model of some family."""

    facts: Facts
    ids: ToolIds = field(default_factory=lambda: ToolIds(_NOT_IN_AN_ID, _LONGEST_ID))
    names: media.DocumentNames = field(default_factory=media.DocumentNames)

    def blocks(self, part: content_pb2.Part, path: str) -> list[Block]:
        """The blocks of one part, at `path` of the request. Parts without content give none."""
        kind = part.WhichOneof("kind")
        write = _WRITERS.get(kind) if kind is not None else None
        written = write(self, part, path) if write is not None else []
        if written and part.cache_control and self.facts.caching:
            written.append(self.cache_point(part.cache_control, f"{path}.cache_control"))
        return written

    def cache_point(self, marker: bytes, path: str) -> Block:
        """The block that marks what stands before it for the prompt cache."""
        asked = read_json(marker, path)
        point = {"type": "default"}
        ttl = asked.get("ttl") if isinstance(asked, dict) else None
        if ttl == "1h" and self.facts.caching_1h:
            point["ttl"] = ttl
        return {"cachePoint": point}

    def _text(self, part: content_pb2.Part, path: str) -> list[Block]:
        return text_blocks(part.text.text or part.refusal.text)

    def _image(self, part: content_pb2.Part, path: str) -> list[Block]:
        return [media.image(part.image, path)]

    def _file(self, part: content_pb2.Part, path: str) -> list[Block]:
        return [media.document(part.file, self.names, path)]

    def _audio(self, part: content_pb2.Part, path: str) -> list[Block]:
        if part.audio.WhichOneof("source") == "inline":
            return [media.audio(part.audio, path)]
        return text_blocks(part.audio.transcript)

    def _tool_call(self, part: content_pb2.Part, path: str) -> list[Block]:
        call = part.tool_call
        return [
            {
                "toolUse": {
                    "toolUseId": self.ids.for_call(call),
                    "name": call.name,
                    "input": arguments_object(call),
                }
            }
        ]

    def _tool_result(self, part: content_pb2.Part, path: str) -> list[Block]:
        result = part.tool_result
        content: list[Block] = []
        apart: list[Block] = []
        for number, piece in enumerate(result.parts):
            for block in self.blocks(piece, f"{path}[{number}]"):
                kind = next(iter(block))
                inside = kind == "text" or kind in self.facts.in_results
                (content if inside else apart).append(self._result_block(block))
        if not content:
            # An empty list is refused.
            content.append({"text": "The result follows." if apart else ""})
        written: Block = {"toolUseId": self.ids.for_result(result), "content": content}
        if self.facts.result_status:
            written["status"] = "error" if result.is_error else "success"
        return [{"toolResult": written}, *apart]

    def _result_block(self, block: Block) -> Block:
        if not self.facts.json_results or "text" not in block:
            return block
        try:
            value = orjson.loads(block["text"])
        except orjson.JSONDecodeError:
            return block
        return {"json": value} if isinstance(value, dict) else block

    def _reasoning(self, part: content_pb2.Part, path: str) -> list[Block]:
        own = [blob for blob in part.reasoning.blobs if blob.issuer == ISSUER]
        if not self.facts.signs:
            return []
        written: list[Block] = []
        signatures = [blob for blob in own if blob.kind == SIGNATURE]
        # Text of several blocks run together fits none of their signatures.
        if len(signatures) == 1:
            signed = {
                "text": part.reasoning.text,
                "signature": signatures[0].data.decode(errors="replace"),
            }
            written.append({"reasoningContent": {"reasoningText": signed}})
        written += (
            {"reasoningContent": {"redactedContent": blob.data.decode(errors="replace")}}
            for blob in own
            if blob.kind == REDACTED
        )
        return written

    def _opaque(self, part: content_pb2.Part, path: str) -> list[Block]:
        if part.opaque.issuer == _CALLER:
            raise InferenceError(
                "unsupported_parameter",
                f"Bedrock takes no parts of type {part.opaque.type!r}.",
                param=path,
            )
        if part.opaque.issuer != ISSUER:
            return []
        block = read_json(part.opaque.json, path)
        if not isinstance(block, dict):
            raise InferenceError("invalid_request", "The item is not a JSON object.", param=path)
        return [block]


_WRITERS: dict[str, Callable[[Writer, content_pb2.Part, str], list[Block]]] = {
    "text": Writer._text,
    "refusal": Writer._text,
    "image": Writer._image,
    "audio": Writer._audio,
    "file": Writer._file,
    "tool_call": Writer._tool_call,
    "tool_result": Writer._tool_result,
    "reasoning": Writer._reasoning,
    "opaque": Writer._opaque,
}


def text_blocks(text: str) -> list[Block]:
    """A text block, or none: blank ones are refused."""
    return [{"text": text}] if text and not text.isspace() else []
