"""Renders what a model said as the output items of a response."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import orjson
from msgspec import Raw

from broker.items import Group, grouped, name_of
from broker.translate.responses_state import seal
from broker.v1 import content_pb2, operations_pb2

Item = dict[str, Any] | Raw
COMPLETED, INCOMPLETE = "completed", "incomplete"
_CUSTOM = content_pb2.TOOL_KIND_CUSTOM


def output_items(
    message: content_pb2.Message,
    answer_id: str,
    *,
    with_state: bool,
    last_status: str = COMPLETED,
    facts: operations_pb2.ImageFacts | None = None,
) -> list[Item]:
    """The items of an answer; `last_status` is how the last one ended."""
    groups = grouped(message.parts, with_state=with_state)
    items = []
    for index, group in enumerate(groups):
        status = last_status if index == len(groups) - 1 else COMPLETED
        name = name_of(group, answer_id, index)
        items.append(item(group, name, status, with_state=with_state, facts=facts))
    return items


def item(
    group: Group,
    name: str,
    status: str,
    *,
    with_state: bool,
    facts: Any = None,
) -> Item:
    """One item; `name` is its id, except for items of others, which keep theirs."""
    written = _WRITE[group.type](group, name, status)
    if group.type == "reasoning" and with_state and isinstance(written, dict):
        written["encrypted_content"] = seal(group.parts[-1].reasoning) or None
    if group.type == "image_generation_call" and facts is not None and isinstance(written, dict):
        written.update({field.name: value for field, value in facts.ListFields()})
    return written


# --- messages ----------------------------------------------------------------------------------


def _message(group: Group, name: str, status: str) -> Item:
    written: dict[str, Any] = {
        "id": name,
        "type": "message",
        "status": status,
        "content": said(group.parts),
        "role": "assistant",
    }
    for part in group.parts:
        if part.text.phase:
            written["phase"] = part.text.phase
            break
    return written


def said(parts: Sequence[content_pb2.Part]) -> list[dict[str, Any]]:
    """The content of a message: texts that follow one another are one."""
    content: list[dict[str, Any]] = []
    for part in parts:
        if part.HasField("refusal"):
            content.append({"type": "refusal", "refusal": part.refusal.text})
        elif part.HasField("text"):
            last = content[-1] if content else None
            if last is not None and last["type"] == "output_text":
                last["text"] += part.text.text
            else:
                last = output_text(part.text.text)
                content.append(last)
            last["annotations"] += citations(part.text.annotations)
            last["logprobs"] += _array(part.text.logprobs)
    return content


def output_text(text: str) -> dict[str, Any]:
    """A text part of a message."""
    return {"type": "output_text", "annotations": [], "logprobs": [], "text": text}


def _array(data: bytes) -> list[Any]:
    return msgspec.json.decode(data, type=list[Raw]) if data else []


def citations(data: bytes) -> list[Any]:
    """The entries of a JSON array of annotations, in this API's form."""
    return [annotation(bytes(entry)) for entry in _array(data)]


def annotation(data: bytes) -> Any:
    """One annotation: what chat nests under its type stands beside it here."""
    value = orjson.loads(data)
    if isinstance(value, dict):
        inner = value.get(value.get("type") or "")
        if isinstance(inner, dict):
            return {"type": value["type"], **inner}
    return value


# --- all others --------------------------------------------------------------------------------


def _reasoning(group: Group, name: str, _status: str) -> Item:
    reasoning = group.parts[-1].reasoning
    summary = [{"type": "summary_text", "text": text} for text in reasoning.summary]
    written: dict[str, Any] = {"id": name, "type": "reasoning", "summary": summary}
    if reasoning.text:
        written["content"] = [{"type": "reasoning_text", "text": reasoning.text}]
    return written


def _function_call(group: Group, name: str, status: str) -> Item:
    call = group.parts[-1].tool_call
    written = {
        "id": name,
        "type": "function_call",
        "status": status,
        "arguments": call.arguments.decode("utf-8", "replace"),
        "call_id": call.call_id,
        "name": call.name,
    }
    if call.namespace:
        written["namespace"] = call.namespace
    return written


def _custom_call(group: Group, name: str, status: str) -> Item:
    call = group.parts[-1].tool_call
    return {
        "id": name,
        "type": "custom_tool_call",
        "status": status,
        "call_id": call.call_id,
        "input": call.arguments.decode("utf-8", "replace"),
        "name": call.name,
    }


def _image(group: Group, name: str, status: str) -> Item:
    image = group.parts[-1].image
    written: dict[str, Any] = {"id": name, "type": "image_generation_call", "status": status}
    if image.HasField("inline"):
        written["result"] = b64encode(image.inline.data).decode()
    else:
        written["result"] = image.url or None
    if image.error:
        written |= {"status": "failed", "error": {"message": image.error}}
    if image.revised_prompt:
        written["revised_prompt"] = image.revised_prompt
    return written


def _opaque(group: Group, _name: str, _status: str) -> Item:
    return Raw(group.parts[-1].opaque.json)


_WRITE: dict[str, Callable[[Group, str, str], Item]] = {
    "message": _message,
    "reasoning": _reasoning,
    "function_call": _function_call,
    "custom_tool_call": _custom_call,
    "image_generation_call": _image,
    "opaque": _opaque,
}
