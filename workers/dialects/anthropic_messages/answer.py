"""Turns Claude's content blocks, whole or in deltas, into hub events: one answer's state.

Source: the raw message stream events of the official SDK. Blocks never overlap, and each is
described by its index, its type and its deltas; an answer that was not streamed is written here
as blocks that came whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from broker.errors import InferenceError
from broker.v1 import content_pb2, event_pb2, generation_pb2
from workers.dialects.anthropic_messages.blocks import ISSUER, is_own
from workers.dialects.anthropic_messages.citations import annotation
from workers.dialects.anthropic_messages.usage import uncounted, usage_of
from workers.fences import FenceStripper
from workers.headers import rate_limits, request_id
from workers.standins import (
    CUSTOM_INPUT,
    answer_tool_name,
    custom_tool_names,
    wants_plain_json,
)

Event = event_pb2.Event

_FINISH = {
    "end_turn": event_pb2.FINISH_REASON_STOP,
    "stop_sequence": event_pb2.FINISH_REASON_STOP,
    "max_tokens": event_pb2.FINISH_REASON_LENGTH,
    "model_context_window_exceeded": event_pb2.FINISH_REASON_LENGTH,
    "tool_use": event_pb2.FINISH_REASON_TOOL_CALLS,
    # A loop of server tools paused: sending the answer back goes on with it.
    "pause_turn": event_pb2.FINISH_REASON_STOP,
    "refusal": event_pb2.FINISH_REASON_CONTENT_FILTER,
}
_UNANNOUNCED = {"text_delta": "text", "thinking_delta": "thinking"}
# Of a whole message and of its delta, what the hub types.
_TYPED = frozenset(
    {"content", "id", "model", "role", "stop_reason", "stop_sequence", "type", "usage"}
)
_CALL = frozenset({"id", "input", "name", "type"})
_TIERS = {"standard": "default", "priority": "priority"}
# Rough, for an answer that came without counts.
_CHARACTERS_PER_TOKEN = 4


class _Block:
    """A block that is being written. `text` is what came of its text or its tool's input."""

    __slots__ = ("citations", "data", "item", "kind", "signature", "start", "text", "tool")

    def __init__(self, kind: str, data: dict[str, Any], item: int) -> None:
        self.kind = kind
        self.data = data
        self.item = item
        self.text: list[str] = []
        self.signature = ""
        self.citations: list[Any] = []
        self.start = 0  # where in the visible text it begins
        self.tool = 0  # position among the client's tool calls


class Answer:
    """The state of one answer. Methods are named after what Claude sends and return events."""

    def __init__(self, request: generation_pb2.Request, headers: Mapping[str, str]) -> None:
        asked = request.generate
        self._headers = headers
        self._is_own = is_own(asked)
        self._extra: dict[str, bytes] = {}
        self._answer_tool = answer_tool_name(asked)
        self._custom_tools = custom_tool_names(asked)
        self._fences = FenceStripper() if wants_plain_json(asked) else None
        self._blocks: dict[int, _Block] = {}
        self._last_kind = ""
        self._items = 0
        self._tools = 0
        self._length = 0
        self._counts: dict[str, Any] = {}
        self._stop_reason = ""
        self._stop_sequence = ""
        self._refusal = ""

    @property
    def has_reason(self) -> bool:
        """Whether Claude said why it stopped, without which no answer is whole."""
        return bool(self._stop_reason)

    def message_start(self, message: dict[str, Any]) -> Iterable[Event]:
        self.message_usage(message.get("usage"))
        return [
            Event(
                started=event_pb2.Started(
                    model=message.get("model") or "",
                    upstream_id=message.get("id") or "",
                    service_tier=_TIERS.get(str(self._counts.get("service_tier")), ""),
                    upstream_request_id=request_id(self._headers),
                    rate_limits=rate_limits(self._headers),
                    usage=usage_of(self._counts) if self._is_own else None,
                    extra=self._more_usage(),
                )
            )
        ]

    def message_usage(self, counts: Any) -> None:
        """Counts are totals so far: a later one stands in for an earlier one."""
        if isinstance(counts, dict):
            self._counts |= {name: value for name, value in counts.items() if value is not None}

    def message_delta(self, delta: dict[str, Any]) -> None:
        self._stop_reason = delta.get("stop_reason") or self._stop_reason
        self._stop_sequence = delta.get("stop_sequence") or self._stop_sequence
        details = delta.get("stop_details")
        if self._is_own:
            for name in delta.keys() - _TYPED:
                if delta[name] is not None:
                    self._extra[name] = orjson.dumps(delta[name])
        elif isinstance(details, dict):
            self._refusal = details.get("explanation") or self._refusal

    def message_stop(self) -> Iterable[Event]:
        """The end: what blocks left open, why Claude stopped, and what it cost."""
        events = [event for index in list(self._blocks) for event in self.block_stop(index)]
        last_item = max(0, self._items - 1)
        if self._fences is not None and (rest := self._fences.close()):
            events.append(self._shown(rest, last_item))
        if self._refusal:
            refusal = event_pb2.RefusalDelta(item=self._items, text=self._refusal)
            events.append(Event(refusal=refusal))
        reason = _FINISH.get(self._stop_reason, event_pb2.FINISH_REASON_STOP)
        if reason == event_pb2.FINISH_REASON_TOOL_CALLS and not self._tools:
            # The tool was ours, or the server's own.
            reason = event_pb2.FINISH_REASON_STOP
        finished = event_pb2.ChoiceFinished(
            reason=reason, upstream_reason=self._stop_reason, stop_sequence=self._stop_sequence
        )
        extra = self._extra | self._more_usage()
        completed = event_pb2.Completed(usage=self._usage(), extra=extra)
        return [*events, Event(choice_finished=finished), Event(completed=completed)]

    def block_start(self, index: int, data: dict[str, Any]) -> Iterable[Event]:
        kind = data.get("type") or ""
        if kind == "text" and self._last_kind == "text" and not self._is_own:
            # Cited text comes in many blocks: to others it is one message.
            item = self._items - 1
        else:
            item = self._items
            self._items += 1
        self._last_kind = kind
        block = self._blocks[index] = _Block(kind, data, item)
        if kind == "text":
            block.start = self._length
            block.citations += data.get("citations") or ()
            return self._text(block, data.get("text") or "")
        if kind == "thinking":
            block.signature = data.get("signature") or ""
            return _thinking(block, data.get("thinking") or "")
        if kind == "redacted_thinking":
            return [_blob(block, kind, data.get("data") or "")]
        if kind == "tool_use":
            return self._tool_start(block)
        return ()

    def block_delta(self, index: int, delta: dict[str, Any]) -> Iterable[Event]:
        block = self._blocks.get(index)
        kind = delta.get("type")
        if block is None:
            # Servers that are nearly like Claude's do not say that text begins.
            if kind not in _UNANNOUNCED:
                raise KeyError(index)
            self.block_start(index, {"type": _UNANNOUNCED[kind]})
            block = self._blocks[index]
        if kind == "text_delta":
            return self._text(block, delta.get("text") or "")
        if kind == "thinking_delta":
            return _thinking(block, delta.get("thinking") or "")
        if kind == "input_json_delta":
            return self._input(block, delta.get("partial_json") or "")
        if kind == "signature_delta":
            block.signature += delta.get("signature") or ""
        elif kind == "citations_delta":
            if self._is_own:
                return [self._annotation(block, delta.get("citation"))]
            block.citations.append(delta.get("citation"))
        else:
            _merge(block.data, delta)
        return ()

    def block_stop(self, index: int) -> Iterable[Event]:
        block = self._blocks.pop(index, None)
        if block is None:
            return ()
        if block.kind == "text":
            return [self._annotation(block, citation) for citation in block.citations]
        if block.kind == "thinking":
            return [_blob(block, "signature", block.signature)] if block.signature else ()
        if block.kind == "redacted_thinking":
            return ()
        if block.kind == "tool_use":
            return self._tool_stop(block)
        if block.text:
            block.data["input"] = _value(block.text)
        whole = content_pb2.Opaque(type=block.kind, json=orjson.dumps(block.data), issuer=ISSUER)
        return [Event(opaque=event_pb2.OpaqueEvent(item=block.item, opaque=whole))]

    def _text(self, block: _Block, text: str) -> Iterable[Event]:
        if self._fences is not None:
            text = self._fences.feed(text)
        return [self._shown(text, block.item)] if text else ()

    def _shown(self, text: str, item: int) -> Event:
        self._length += len(text)
        return Event(text=event_pb2.TextDelta(item=item, text=text))

    def _annotation(self, block: _Block, citation: Any) -> Event:
        found = citation if self._is_own else annotation(citation, block.start, self._length)
        return Event(
            annotation=event_pb2.AnnotationEvent(item=block.item, json=orjson.dumps(found))
        )

    def _tool_start(self, block: _Block) -> Iterable[Event]:
        name = block.data.get("name") or ""
        if name == self._answer_tool:
            return ()
        if not name:
            raise InferenceError("upstream_error", "The provider sent a tool call with no name.")
        block.tool = self._tools
        self._tools += 1
        return [
            Event(
                tool_call=event_pb2.ToolCallDelta(
                    item=block.item,
                    index=block.tool,
                    call_id=block.data.get("id") or f"call_{block.tool}",
                    name=name,
                    kind=content_pb2.TOOL_KIND_CUSTOM
                    if name in self._custom_tools
                    else content_pb2.TOOL_KIND_FUNCTION,
                    extra=_rest(block.data),
                )
            )
        ]

    def _input(self, block: _Block, piece: str) -> Iterable[Event]:
        if not piece:
            return ()
        block.text.append(piece)
        if block.kind != "tool_use" or block.data.get("name") in self._custom_tools:
            return ()  # shown as a whole when the block ends
        if block.data.get("name") == self._answer_tool:
            return [self._shown(piece, block.item)]
        return [_arguments(block, piece)]

    def _tool_stop(self, block: _Block) -> Iterable[Event]:
        name = block.data.get("name")
        if name in self._custom_tools:
            given = _value(block.text) if block.text else block.data.get("input")
            text = given.get(CUSTOM_INPUT, given) if isinstance(given, dict) else given
            whole = text if isinstance(text, str) else orjson.dumps(text).decode()
            return [_arguments(block, whole)]
        if block.text:
            return ()
        whole = orjson.dumps(block.data.get("input") or {}).decode()
        if name == self._answer_tool:
            return [self._shown(whole, block.item)]
        return [_arguments(block, whole)]

    def _more_usage(self) -> dict[str, bytes]:
        more = uncounted(self._counts) if self._is_own else None
        return {"usage": orjson.dumps(more)} if more else {}

    def _usage(self) -> event_pb2.Usage:
        if "input_tokens" in self._counts or "output_tokens" in self._counts:
            return usage_of(self._counts)
        tokens = -(-self._length // _CHARACTERS_PER_TOKEN)
        return event_pb2.Usage(output_tokens=tokens, estimated=True)


def _thinking(block: _Block, text: str) -> Iterable[Event]:
    return [Event(reasoning=event_pb2.ReasoningDelta(item=block.item, text=text))] if text else ()


def _blob(block: _Block, kind: str, data: str) -> Event:
    blob = content_pb2.Blob(issuer=ISSUER, kind=kind, data=data.encode())
    return Event(blob=event_pb2.BlobEvent(item=block.item, blob=blob))


def _rest(data: dict[str, Any]) -> dict[str, bytes]:
    """What a call says beside what the hub types."""
    names = data.keys() - _CALL
    return {name: orjson.dumps(data[name]) for name in names if data[name] is not None}


def _arguments(block: _Block, text: str) -> Event:
    return Event(
        tool_call=event_pb2.ToolCallDelta(item=block.item, index=block.tool, arguments=text)
    )


def _merge(data: dict[str, Any], delta: dict[str, Any]) -> None:
    """Adds a delta of a block that the hub does not interpret to the block."""
    for name, value in delta.items():
        before = data.get(name)
        if name == "type":
            continue
        if isinstance(before, str) and isinstance(value, str):
            data[name] = before + value
        elif value is not None:
            data[name] = value


def _value(pieces: list[str]) -> Any:
    """The JSON that the pieces make, or their text where the model broke off within it."""
    text = "".join(pieces)
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text
