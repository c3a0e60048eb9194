"""Puts the pieces of one choice's tool calls in order, repairing what servers leave out.

Every call gets one contiguous index, an id and a name with its first event, whatever arrives:
indexes that are missing, repeated or have gaps, ids that are missing or doubled, names that come
late, arguments as an object.
"""

from __future__ import annotations

import hashlib
from typing import Any

import orjson

from broker.errors import InferenceError
from broker.v1 import content_pb2, event_pb2
from workers.dialects.openai_chat.wire import Function, ToolCall


class _Slot:
    """One call so far. `held` is what came before its name."""

    __slots__ = ("arguments", "held", "id", "index", "item", "kind", "name")

    def __init__(self, index: int, item: int, call_id: str) -> None:
        self.index = index
        self.item = item
        self.id = call_id
        self.name = ""
        self.kind = content_pb2.TOOL_KIND_FUNCTION
        self.held = ""
        self.arguments = 0


class ToolCalls:
    """The tool calls of one choice. `seed` makes ids for calls that come without one."""

    def __init__(self, choice: int, seed: str) -> None:
        self._choice = choice
        self._seed = seed
        self._slots: list[_Slot] = []
        self._by_index: dict[int | str, _Slot] = {}
        self._ids: dict[str, _Slot] = {}

    def __len__(self) -> int:
        return len(self._slots)

    def add(self, call: ToolCall, item: int) -> event_pb2.Event | None:
        """The event of a piece; `item` is the output item's number if a call begins with it."""
        call_id = str(call.id) if call.id else ""
        if call.custom is not None:
            name, piece = call.custom.name, call.custom.input
        else:
            function = call.function or Function()
            name, piece = function.name, _json_text(function.arguments)
        slot = self._find(call.index, call_id, name) or self._open(call.index, call_id, item)
        if call.custom is not None:
            slot.kind = content_pb2.TOOL_KIND_CUSTOM
        return self._event(slot, name or "", piece or "")

    def add_legacy(self, function: Function, item: int) -> event_pb2.Event | None:
        """The event of a piece of the one `function_call` of the choice."""
        slot = self._by_index.get("legacy") or self._open("legacy", "", item)
        return self._event(slot, function.name or "", _json_text(function.arguments) or "")

    def finish(self) -> list[event_pb2.Event]:
        """Completes the calls: an empty text is no JSON, so a call without arguments gets {}."""
        events = []
        for slot in self._slots:
            if not slot.name:
                raise InferenceError("upstream_error", "the provider sent a tool call with no name")
            if not slot.arguments and slot.kind == content_pb2.TOOL_KIND_FUNCTION:
                event = self._event(slot, "", "{}")
                if event is not None:
                    events.append(event)
        return events

    def _find(self, index: int | None, call_id: str, name: str | None) -> _Slot | None:
        if index is not None:
            slot = self._by_index.get(index)
            # Another id and a name: a second call under the index of the first.
            again = slot is not None and name and call_id and slot.id != call_id
            return None if again else slot
        if call_id:
            return self._ids.get(call_id)
        # Neither index nor id: a name begins a call, anything else goes on with the last one.
        return None if name or not self._slots else self._slots[-1]

    def _open(self, index: int | str | None, call_id: str, item: int) -> _Slot:
        position = len(self._slots)
        if not call_id or call_id in self._ids:
            digest = hashlib.sha256(f"{self._seed}:{self._choice}:{position}".encode())
            call_id = "call_" + digest.hexdigest()[:24]
        slot = _Slot(position, item, call_id)
        self._slots.append(slot)
        self._ids[call_id] = slot
        if index is not None:
            self._by_index[index] = slot
        return slot

    def _event(self, slot: _Slot, name: str, piece: str) -> event_pb2.Event | None:
        begins = not slot.name and bool(name)
        if not slot.name and not begins:
            slot.held += piece
            return None
        if not begins and not piece:
            return None
        event = event_pb2.Event()
        delta = event.tool_call
        delta.choice = self._choice
        delta.item = slot.item
        delta.index = slot.index
        if begins:
            slot.name = name
            delta.call_id = slot.id
            delta.name = name
            delta.kind = slot.kind
            piece = slot.held + piece
        slot.arguments += len(piece)
        delta.arguments = piece
        return event


def _json_text(arguments: Any) -> str | None:
    if arguments is None or isinstance(arguments, str):
        return arguments
    return orjson.dumps(arguments).decode()
