"""The extension field `reasoning_details`: what OpenAI's assistant message cannot hold.

An answer whose reasoning has provider-bound state (thinking signatures, encrypted reasoning) or
that has items of hosted tools lists them here, and clients send the list back with the message, as
they do with every field they do not know. An entry is one of

    {"type": "reasoning", "text": str, "summary": [str],
     "blobs": [{"issuer": str, "kind": str, "data": base64}]}
    {"type": "opaque", "kind": str, "issuer": str, "data": base64 of the item's JSON}

plus `after_text` (characters of content before it) and `after_tool_calls` (tool calls before it)
where they are not 0. When the list is there it holds all of the reasoning, so that
`reasoning_content` beside it is only for reading. Two spellings of others are read too:
LiteLLM's `thinking_blocks` and OpenRouter's `reasoning_details`.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import orjson

from broker.translate import fields
from broker.translate.media import read_base64
from broker.translate.refusals import invalid, json_text
from broker.v1 import content_pb2

ANTHROPIC = "anthropic_messages"
OPENAI_CHAT = "openai_chat"
# No signature of Anthropic's has a dot.
_SEALED = "millrace.1."


class Carried(NamedTuple):
    """A part of an assistant message and where it stood among the others."""

    part: content_pb2.Part
    after_text: int = 0
    after_tool_calls: int = 0


def entry(carried: Carried) -> dict[str, Any]:
    """The list's entry for a part of kind reasoning or opaque."""
    part = carried.part
    shown: dict[str, Any]
    if part.HasField("opaque"):
        data = b64encode(part.opaque.json).decode()
        shown = {
            "type": "opaque",
            "kind": part.opaque.type,
            "issuer": part.opaque.issuer,
            "data": data,
        }
    else:
        reasoning = part.reasoning
        shown = {"type": "reasoning", "text": reasoning.text}
        if reasoning.summary:
            shown["summary"] = list(reasoning.summary)
        shown["blobs"] = [
            {"issuer": blob.issuer, "kind": blob.kind, "data": b64encode(blob.data).decode()}
            for blob in reasoning.blobs
        ]
    if carried.after_text:
        shown["after_text"] = carried.after_text
    if carried.after_tool_calls:
        shown["after_tool_calls"] = carried.after_tool_calls
    return shown


def worth_carrying(parts: Iterable[content_pb2.Part]) -> bool:
    """Whether anything among these parts would be lost in plain OpenAI fields."""
    return any(part.HasField("opaque") or part.reasoning.blobs for part in parts)


def read_details(details: Sequence[dict[str, Any]], where: str) -> list[Carried]:
    """The parts that a `reasoning_details` list stands for, in its order."""
    return [_read(item, f"{where}[{index}]") for index, item in enumerate(details)]


def _read(item: dict[str, Any], where: str) -> Carried:
    part = content_pb2.Part()
    kind = item.get("type")
    if kind == "opaque":
        part.opaque.type = fields.text(item, "kind", where)
        part.opaque.issuer = fields.text(item, "issuer", where)
        part.opaque.json = _data(item, where)
    elif kind == "reasoning":
        part.reasoning.text = fields.text(item, "text", where, default="")
        part.reasoning.summary.extend(fields.texts(item, "summary", where))
        for index, blob in enumerate(fields.array(item, "blobs", where)):
            place = f"{where}.blobs[{index}]"
            if not isinstance(blob, dict):
                raise fields.wrong(place, "an object")
            part.reasoning.blobs.add(
                issuer=fields.text(blob, "issuer", place),
                kind=fields.text(blob, "kind", place),
                data=_data(blob, place),
            )
    else:
        # OpenRouter's own entries: readable text beside a whole that only it understands.
        text = item.get("text") or item.get("summary")
        part.reasoning.text = text if isinstance(text, str) else ""
        part.reasoning.blobs.add(
            issuer=OPENAI_CHAT, kind="reasoning_details", data=json_text(item, where)
        )
    return Carried(
        part, fields.count(item, "after_text", where), fields.count(item, "after_tool_calls", where)
    )


def read_thinking_blocks(blocks: Sequence[dict[str, Any]], where: str) -> list[Carried]:
    """The reasoning parts of Anthropic's thinking blocks, as LiteLLM's clients send them."""
    return [
        Carried(read_thinking(block, f"{where}[{index}]")) for index, block in enumerate(blocks)
    ]


def read_thinking(block: dict[str, Any], where: str) -> content_pb2.Part:
    """The reasoning part of one `thinking` or `redacted_thinking` block."""
    part = content_pb2.Part()
    if block.get("type") == "redacted_thinking":
        data = fields.text(block, "data", where)
        part.reasoning.blobs.add(issuer=ANTHROPIC, kind="redacted_thinking", data=data.encode())
        return part
    if block.get("type") != "thinking":
        raise invalid(
            f"{where}.type",
            f"Invalid value for '{where}.type'. "
            "Supported values are: 'thinking', 'redacted_thinking'.",
        )
    thinking = block.get("thinking")
    if isinstance(thinking, list):  # Mistral's form: a list of text parts
        texts = [piece.get("text") for piece in thinking if isinstance(piece, dict)]
        part.reasoning.text = "".join(text for text in texts if isinstance(text, str))
    else:
        part.reasoning.text = fields.text(block, "thinking", where)
    signature = fields.text(block, "signature", where, default="")
    if signature.startswith(_SEALED):
        unseal(part.reasoning, signature, f"{where}.signature")
    elif signature:
        part.reasoning.blobs.add(issuer=ANTHROPIC, kind="signature", data=signature.encode())
    return part


def seal(blobs: Sequence[content_pb2.Blob]) -> str:
    """State of other providers as the signature of a thinking block."""
    listed = [
        {"issuer": b.issuer, "kind": b.kind, "data": b64encode(b.data).decode()} for b in blobs
    ]
    return _SEALED + b64encode(orjson.dumps(listed)).decode()


def unseal(reasoning: content_pb2.Reasoning, signature: str, where: str) -> None:
    """Put back the state that `seal` wrote."""
    data = read_base64(signature.removeprefix(_SEALED), where)
    try:
        for blob in orjson.loads(data):
            reasoning.blobs.add(
                issuer=blob["issuer"], kind=blob["kind"], data=read_base64(blob["data"], where)
            )
    except (ValueError, TypeError, KeyError) as exc:
        raise invalid(where, f"Invalid '{where}': not a signature that was given out.") from exc


def _data(item: dict[str, Any], where: str) -> bytes:
    return read_base64(fields.text(item, "data", where), f"{where}.data")
