"""Closes what a response opened: the last events of a text, a call, an image, by their kinds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from broker.items import Group
from broker.parts import CallPart, ImagePart, OpaquePart, ReasoningPart, SaidPart, hub_part
from broker.translate.responses_items import COMPLETED, item
from broker.v1 import content_pb2

Part = SaidPart | ReasoningPart | CallPart | ImagePart | OpaquePart


class Writer(Protocol):
    """What writes events down."""

    def write(self, kind: str, fields: dict[str, Any]) -> None: ...

    def head(self, kind: str, fields: dict[str, Any]) -> tuple[bytes, bytes]: ...

    def delta(self, head: tuple[bytes, bytes], text: str, rest: bytes = b"") -> None: ...


class Open:
    """An item that is being said, and the parts of the answer that it is made of."""

    __slots__ = ("begun", "count", "head", "id", "parts", "pieces", "position", "type", "within")

    def __init__(self, kind: str, name: str, position: int) -> None:
        self.type = kind
        self.id = name
        self.position = position
        self.parts: list[tuple[str, Part]] = []
        # The text or summary that is being said inside: its kind and number.
        self.within: tuple[str, int] | None = None
        self.pieces: list[str] = []
        self.head = (b"", b"")
        self.count = 0
        self.begun = -1

    def at(self, **more: Any) -> dict[str, Any]:
        """Where the item is, for an event that speaks of it."""
        return {"item_id": self.id, "output_index": self.position, **more}


def end_within(writer: Writer, opened: Open) -> None:
    """The text that is being said inside an item is whole."""
    if opened.within is None:
        return
    kind, _ = opened.within
    text = "".join(opened.pieces)
    opened.pieces.clear()
    opened.within = None
    _WITHIN[kind](writer, opened, text)


def end_item(writer: Writer, opened: Open, part: content_pb2.Part) -> None:
    """What comes between an item's last delta and `output_item.done`; `part` is its last."""
    if opened.type in _ITEMS:
        _ITEMS[opened.type](writer, opened, part)


def _text(writer: Writer, opened: Open, text: str) -> None:
    at = opened.at(content_index=opened.begun)
    parts = [hub_part(kind, part) for kind, part in opened.parts if kind == "text"]
    group = item(Group("message", parts), opened.id, COMPLETED, with_state=False)
    content = group["content"][-1] if isinstance(group, dict) else {}
    writer.write("response.output_text.done", {**at, "text": text, "logprobs": content["logprobs"]})
    writer.write("response.content_part.done", {**at, "part": content})


def _refusal(writer: Writer, opened: Open, text: str) -> None:
    at = opened.at(content_index=opened.begun)
    writer.write("response.refusal.done", {**at, "refusal": text})
    part = {"type": "refusal", "refusal": text}
    writer.write("response.content_part.done", {**at, "part": part})


def _summary(writer: Writer, opened: Open, text: str) -> None:
    at = opened.at(summary_index=opened.begun)
    part = {"type": "summary_text", "text": text}
    writer.write("response.reasoning_summary_text.done", {**at, "text": text})
    writer.write("response.reasoning_summary_part.done", {**at, "part": part})


def _reasoning(writer: Writer, opened: Open, text: str) -> None:
    at = opened.at(content_index=0)
    part = {"type": "reasoning_text", "text": text}
    writer.write("response.reasoning_text.done", {**at, "text": text})
    writer.write("response.content_part.done", {**at, "part": part})


def _function(writer: Writer, opened: Open, part: content_pb2.Part) -> None:
    arguments = part.tool_call.arguments.decode("utf-8", "replace")
    writer.write("response.function_call_arguments.done", opened.at(arguments=arguments))


def _custom(writer: Writer, opened: Open, part: content_pb2.Part) -> None:
    said = part.tool_call.arguments.decode("utf-8", "replace")
    writer.write("response.custom_tool_call_input.done", opened.at(input=said))


def _image(writer: Writer, opened: Open, part: content_pb2.Part) -> None:
    if not part.image.error:
        writer.write("response.image_generation_call.completed", opened.at())


_WITHIN: dict[str, Callable[[Writer, Open, str], None]] = {
    "text": _text,
    "refusal": _refusal,
    "summary": _summary,
    "reasoning": _reasoning,
}
_ITEMS: dict[str, Callable[[Writer, Open, content_pb2.Part], None]] = {
    "function_call": _function,
    "custom_tool_call": _custom,
    "image_generation_call": _image,
}
