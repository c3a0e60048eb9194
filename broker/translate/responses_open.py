"""Renders the items of a response while they are being said: opened, added to, closed.

One item is open at a time; when another begins it is closed. Two kinds stay open beside others: a
function call whose arguments are not yet whole JSON (some providers mix the pieces of parallel
calls), and items of hosted tools, which say themselves when they are whole.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from typing import Any

import msgspec
import orjson
from msgspec import Raw

from broker.answer import Fold
from broker.items import RESPONSES, Group, item_id
from broker.parts import CallPart, ImagePart, ReasoningPart, SaidPart, hub_part
from broker.translate.responses_close import Open, Part, Writer, end_item, end_within
from broker.translate.responses_items import (
    COMPLETED,
    INCOMPLETE,
    Item,
    annotation,
    item,
    output_text,
)
from broker.v1 import content_pb2, event_pb2, operations_pb2

_CUSTOM = content_pb2.TOOL_KIND_CUSTOM
_PROGRESS = "in_progress"
_is_json = msgspec.json.Decoder(Raw).decode


class OpenItems:
    """The items of one answer. `fold` has taken each event in before it comes here."""

    def __init__(self, answer_id: str, fold: Fold, writer: Writer, *, with_state: bool) -> None:
        self._answer_id = answer_id
        self._fold = fold
        self._writer = writer
        self._with_state = with_state
        self._count = 0
        self._current: Open | None = None
        # Calls that are not whole, by index, and hosted tools' items, by item.
        self._calls: dict[int, Open] = {}
        self._hosted: dict[int, Open] = {}
        # Parts that are not shown, until one comes that is.
        self._hidden: list[tuple[str, Part]] = []
        self._seen: set[int] = set()
        self._facts = operations_pb2.ImageFacts()

    def take(self, kind: str, event: Any) -> None:
        """Render one event of the answer's first choice."""
        if getattr(event, "choice", 0) == 0 and kind in _TAKE:
            _TAKE[kind](self, event)

    def close_all(self, *, incomplete: bool) -> None:
        """The answer has ended."""
        # What a hosted tool's server left open stays open.
        left = list(self._calls.values())
        if self._current is not None and self._current not in left:
            left.append(self._current)
        left.sort(key=lambda opened: opened.position)
        for opened in left:
            last = opened.position == self._count - 1
            self._close(opened, INCOMPLETE if incomplete and last else COMPLETED)
        self._calls.clear()
        self._current = None

    # --- opening and closing ---

    def _open(self, kind: str, added: Callable[[str], Item], name: str = "") -> Open:
        position = self._count
        self._count += 1
        opened = Open(kind, name or item_id(self._answer_id, position, kind), position)
        opened.parts, self._hidden = self._hidden, []
        self._writer.write(
            "response.output_item.added",
            {"output_index": position, "item": added(opened.id)},
        )
        return opened

    def _next(self, kind: str, added: Callable[[str], Item]) -> Open:
        """Open an item in place of the current one."""
        self._leave()
        self._current = self._open(kind, added)
        return self._current

    def _leave(self) -> None:
        current, self._current = self._current, None
        if current is None:
            return
        part = current.parts[-1][1]
        if current.type == "function_call" and isinstance(part, CallPart):
            try:
                _is_json("".join(part.pieces).encode())
            except msgspec.DecodeError:
                return  # it stays among the open calls
            self._calls.pop(part.index, None)
        self._close(current, COMPLETED)

    def _close(self, opened: Open, status: str) -> None:
        end_within(self._writer, opened)
        self._seen.update(id(part) for _, part in opened.parts)
        parts = [hub_part(kind, part) for kind, part in opened.parts]
        group = Group(opened.type, parts)
        whole = item(group, opened.id, status, with_state=self._with_state, facts=self._facts)
        end_item(self._writer, opened, parts[-1])
        self._writer.write(
            "response.output_item.done", {"output_index": opened.position, "item": whole}
        )

    # --- messages ---

    def _text(self, delta: event_pb2.TextDelta) -> None:
        part = self._fold.choice(0).get(delta.item, "text", SaidPart)
        opened = self._message("text", part, delta.phase)
        if opened is None:
            return
        self._say(opened, "text", "response.output_text.delta")
        if delta.text or delta.logprobs:
            opened.pieces.append(delta.text)
            rest = b',"logprobs":' + (delta.logprobs or b"[]")
            self._writer.delta(opened.head, delta.text, rest)

    def _refusal(self, delta: event_pb2.RefusalDelta) -> None:
        part = self._fold.choice(0).get(delta.item, "refusal", SaidPart)
        opened = self._message("refusal", part, "")
        if opened is None:
            return
        self._say(opened, "refusal", "response.refusal.delta")
        if delta.text:
            opened.pieces.append(delta.text)
            self._writer.delta(opened.head, delta.text)

    def _message(self, kind: str, part: SaidPart, phase: str) -> Open | None:
        """The message that a part belongs to; None when that was closed."""
        current = self._current
        if current is not None and current.type == "message":
            if any(known is part for _, known in current.parts):
                return current
            if self._hidden or current.parts[-1][0] != kind:
                current.parts += [*self._hidden, (kind, part)]
                self._hidden = []
                return current
        if id(part) in self._seen:
            return None

        def added(name: str) -> Item:
            shown: dict[str, Any] = {
                "id": name,
                "type": "message",
                "status": _PROGRESS,
                "content": [],
                "role": "assistant",
            }
            return {**shown, "phase": phase} if phase else shown

        opened = self._next("message", added)
        opened.parts.append((kind, part))
        return opened

    def _say(self, opened: Open, kind: str, event: str) -> None:
        """Begin a part of the message's content, unless it is the one that is being said."""
        if opened.within is not None and opened.within[0] == kind:
            return
        end_within(self._writer, opened)
        opened.begun += 1
        opened.within = (kind, opened.begun)
        opened.count = 0
        at = opened.at(content_index=opened.begun)
        part = output_text("") if kind == "text" else {"type": "refusal", "refusal": ""}
        self._writer.write("response.content_part.added", {**at, "part": part})
        opened.head = self._writer.head(event, at)

    def _annotation(self, event: event_pb2.AnnotationEvent) -> None:
        part = self._fold.choice(0).get(event.item, "text", SaidPart)
        opened = self._message("text", part, "")
        if opened is None:
            return
        self._say(opened, "text", "response.output_text.delta")
        self._writer.write(
            "response.output_text.annotation.added",
            opened.at(
                content_index=opened.begun,
                annotation_index=opened.count,
                annotation=annotation(event.json),
            ),
        )
        opened.count += 1

    # --- reasoning ---

    def _reasoning(self, delta: event_pb2.ReasoningDelta) -> None:
        if not delta.text:
            return
        opened = self._reasoning_item(delta.item)
        if opened is None:
            return
        wanted = ("summary", delta.part) if delta.summary else ("reasoning", 0)
        if opened.within != wanted:
            end_within(self._writer, opened)
            opened.within = wanted
            self._begin_thought(opened, *wanted)
        opened.pieces.append(delta.text)
        self._writer.delta(opened.head, delta.text)

    def _begin_thought(self, opened: Open, kind: str, number: int) -> None:
        if kind == "summary":
            opened.begun += 1
            at = opened.at(summary_index=opened.begun)
            part = {"type": "summary_text", "text": ""}
            self._writer.write("response.reasoning_summary_part.added", {**at, "part": part})
            opened.head = self._writer.head("response.reasoning_summary_text.delta", at)
        else:
            at = opened.at(content_index=number)
            part = {"type": "reasoning_text", "text": ""}
            self._writer.write("response.content_part.added", {**at, "part": part})
            opened.head = self._writer.head("response.reasoning_text.delta", at)

    def _reasoning_item(self, hub_item: int) -> Open | None:
        part = self._fold.choice(0).get(hub_item, "reasoning", ReasoningPart)
        current = self._current
        if current is not None and current.parts[-1][1] is part:
            return current
        if id(part) in self._seen:
            return None
        self._hidden = [entry for entry in self._hidden if entry[1] is not part]
        opened = self._next(
            "reasoning", lambda name: {"id": name, "type": "reasoning", "summary": []}
        )
        opened.parts.append(("reasoning", part))
        return opened

    def _blob(self, event: event_pb2.BlobEvent) -> None:
        if self._with_state or event.blob.issuer == RESPONSES:
            self._reasoning_item(event.item)
            return
        part = self._fold.choice(0).get(event.item, "reasoning", ReasoningPart)
        current = self._current
        known = [*(current.parts if current is not None else ()), *self._hidden]
        if id(part) not in self._seen and all(other is not part for _, other in known):
            self._hidden.append(("reasoning", part))

    # --- tool calls ---

    def _tool_call(self, delta: event_pb2.ToolCallDelta) -> None:
        opened = self._calls.get(delta.index)
        if opened is None:
            part = self._fold.choice(0).get(
                delta.item, "tool_call", lambda: CallPart(delta.index), delta.index
            )
            if id(part) in self._seen:
                return
            opened = self._calls[delta.index] = self._begin_call(part)
        if delta.arguments:
            self._writer.delta(opened.head, delta.arguments)

    def _begin_call(self, part: CallPart) -> Open:
        custom = part.kind == _CUSTOM
        kind, field = ("custom_tool_call", "input") if custom else ("function_call", "arguments")

        def added(name: str) -> Item:
            shown: dict[str, Any] = {"id": name, "type": kind, "status": _PROGRESS, field: ""}
            shown |= {"call_id": part.call_id, "name": part.name}
            return {**shown, "namespace": part.namespace} if part.namespace else shown

        opened = self._next(kind, added)
        opened.parts.append(("tool_call", part))
        event = "custom_tool_call_input" if custom else "function_call_arguments"
        opened.head = self._writer.head(f"response.{event}.delta", opened.at())
        return opened

    # --- images ---

    def _image(self, delta: event_pb2.ImageDelta) -> None:
        current = self._current
        if current is None or current.type != "image_generation_call":
            current = self._begin_image()
        if not delta.partial:
            part = self._fold.choice(0).get(
                delta.item, "image", lambda: ImagePart(delta), delta.partial_index
            )
            current.parts.append(("image", part))
            self._leave()
        elif delta.HasField("image"):
            self._writer.write(
                "response.image_generation_call.partial_image",
                current.at(
                    partial_image_index=delta.partial_index,
                    partial_image_b64=b64encode(delta.image.data).decode(),
                ),
            )

    def _begin_image(self) -> Open:
        kind = "image_generation_call"

        def added(name: str) -> Item:
            return {"id": name, "type": kind, "status": _PROGRESS, "result": None}

        opened = self._next(kind, added)
        for step in (_PROGRESS, "generating"):
            self._writer.write(f"response.{kind}.{step}", opened.at())
        return opened

    def _image_facts(self, facts: operations_pb2.ImageFacts) -> None:
        self._facts = facts

    # --- hosted tools ---

    def _opaque(self, event: event_pb2.OpaqueEvent) -> None:
        if event.opaque.issuer != RESPONSES:
            return
        opened = self._hosted.get(event.item)
        if opened is None:
            if not event.opaque.json:
                return
            self._leave()
            whole = event.opaque.json
            name = orjson.loads(whole).get("id") or ""
            opened = self._open("opaque", lambda _: Raw(whole), name)
            self._hosted[event.item] = opened
        if event.step:
            step = orjson.loads(event.step)
            self._writer.write(step.pop("type"), opened.at(**step))
        if event.done:
            del self._hosted[event.item]
            part = self._fold.choice(0).get(event.item, "opaque", lambda: None)
            opened.parts.append(("opaque", part))
            self._close(opened, COMPLETED)


_TAKE: dict[str, Callable[[OpenItems, Any], None]] = {
    "text": OpenItems._text,
    "refusal": OpenItems._refusal,
    "annotation": OpenItems._annotation,
    "reasoning": OpenItems._reasoning,
    "blob": OpenItems._blob,
    "tool_call": OpenItems._tool_call,
    "image": OpenItems._image,
    "image_facts": OpenItems._image_facts,
    "opaque": OpenItems._opaque,
}
