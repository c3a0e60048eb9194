"""Turns the tool calls of one answer into hub events, and those of stand-ins back; pure.

A call of the tool that stands for a structured answer is the answer's text. A call of a tool that
stands for one with free text gets its text out of the object. See `workers.standins`.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import orjson

from broker.errors import InferenceError
from broker.v1 import content_pb2, event_pb2, generation_pb2
from workers.standins import CUSTOM_INPUT, answer_tool_name, custom_tool_names

Event = event_pb2.Event


class _Call:
    """One call so far; `index` is its position among the client's calls, -1 for the answer tool."""

    __slots__ = ("custom", "index", "item", "pieces")

    def __init__(self, item: int, index: int, custom: bool) -> None:
        self.item = item
        self.index = index
        self.custom = custom
        self.pieces: list[str] = []


class ToolCalls:
    """The calls of one answer, by the provider's own key of each. Feed `begin`, `piece`, `end`."""

    __slots__ = ("_answer_tool", "_custom_tools", "_open", "count")

    def __init__(self, request: generation_pb2.GenerateRequest) -> None:
        self._answer_tool = answer_tool_name(request)
        self._custom_tools = custom_tool_names(request)
        self._open: dict[Hashable, _Call] = {}
        # Calls that the client is told of.
        self.count = 0

    def begin(self, key: Hashable, call_id: str, name: str, item: int) -> list[Event]:
        """A call begins; `item` is its number among the output items.

        Raises `InferenceError` for a call of nothing.
        """
        if not name:
            raise InferenceError("upstream_error", "The provider sent a tool call with no name.")
        if name == self._answer_tool:
            self._open[key] = _Call(item, -1, custom=False)
            return []
        custom = name in self._custom_tools
        call = self._open[key] = _Call(item, self.count, custom)
        self.count += 1
        kind = content_pb2.TOOL_KIND_CUSTOM if custom else content_pb2.TOOL_KIND_FUNCTION
        delta = event_pb2.ToolCallDelta(
            item=item,
            index=call.index,
            call_id=call_id or f"call_{call.index}",
            name=name,
            kind=kind,
        )
        return [Event(tool_call=delta)]

    def piece(self, key: Hashable, text: str) -> list[Event]:
        """More of a call's arguments."""
        if not text:
            return []
        call = self._open[key]
        call.pieces.append(text)
        # Free text is shown as a whole when the call ends.
        return [] if call.custom else [_shown(call, text)]

    def end(self, key: Hashable) -> list[Event]:
        """A call is whole. Ending one that is not open is nothing."""
        call = self._open.pop(key, None)
        if call is None:
            return []
        if call.custom:
            return [_shown(call, _free_text("".join(call.pieces)))]
        # An empty text is no JSON.
        return [] if call.pieces else [_shown(call, "{}")]

    def end_all(self) -> list[Event]:
        """Ends what the provider left open."""
        return [event for key in list(self._open) for event in self.end(key)]


def _shown(call: _Call, text: str) -> Event:
    if call.index < 0:
        return Event(text=event_pb2.TextDelta(item=call.item, text=text))
    delta = event_pb2.ToolCallDelta(item=call.item, index=call.index, arguments=text)
    return Event(tool_call=delta)


def _free_text(arguments: str) -> str:
    given: Any
    try:
        given = orjson.loads(arguments or "{}")
    except orjson.JSONDecodeError:
        given = arguments
    text = given.get(CUSTOM_INPUT, given) if isinstance(given, dict) else given
    return text if isinstance(text, str) else orjson.dumps(text).decode()
