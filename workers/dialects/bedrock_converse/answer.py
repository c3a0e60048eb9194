"""Turns Converse's content blocks, whole or in deltas, into hub events: one answer's state.

Blocks never overlap. Only those of tools are begun explicitly; an answer that was not streamed is
written here as blocks that came whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from broker.errors import InferenceError
from broker.v1 import content_pb2, event_pb2, generation_pb2
from workers.dialects.bedrock_converse.blocks import ISSUER, REDACTED, SIGNATURE
from workers.dialects.bedrock_converse.usage import usage_of
from workers.fences import FenceStripper
from workers.headers import rate_limits, request_id
from workers.standins import wants_plain_json, wants_schema
from workers.toolcalls import ToolCalls

Event = event_pb2.Event

_FINISH = {
    "end_turn": event_pb2.FINISH_REASON_STOP,
    "stop_sequence": event_pb2.FINISH_REASON_STOP,
    "max_tokens": event_pb2.FINISH_REASON_LENGTH,
    "model_context_window_exceeded": event_pb2.FINISH_REASON_LENGTH,
    "tool_use": event_pb2.FINISH_REASON_TOOL_CALLS,
    "guardrail_intervened": event_pb2.FINISH_REASON_CONTENT_FILTER,
    "content_filtered": event_pb2.FINISH_REASON_CONTENT_FILTER,
}
# Words that stand where the stop reason does and mean that there is no answer.
_FAILED = frozenset({"malformed_model_output", "malformed_tool_use"})
# Rough, for an answer that came without counts.
_CHARACTERS_PER_TOKEN = 4


class _Block:
    """A block that is being written; `kind` is the field of Converse's union that it is."""

    __slots__ = ("citations", "data", "item", "kind", "pieces", "signature", "start")

    def __init__(self, kind: str, item: int, start: int) -> None:
        self.kind = kind
        self.item = item
        # Where in the visible text it begins.
        self.start = start
        self.signature = ""
        self.citations: list[Any] = []
        # Of a block that the hub does not interpret.
        self.data: dict[str, Any] = {}
        self.pieces: list[str] = []


class Answer:
    """The state of one answer. Methods are named after what Converse sends and return events."""

    def __init__(self, request: generation_pb2.Request, headers: Mapping[str, str]) -> None:
        asked = request.generate
        self._headers = headers
        self._calls = ToolCalls(asked)
        wants_json = wants_plain_json(asked) or wants_schema(asked)
        self._fences = FenceStripper() if wants_json else None
        self._blocks: dict[int, _Block] = {}
        self._items = 0
        self._last_kind = ""
        self._length = 0
        self._usage: Any = None
        self.has_usage = False
        self.has_reason = False

    def message_start(self, tier: Any = None) -> Event:
        tier = tier.get("type") if isinstance(tier, dict) else None
        started = event_pb2.Started(
            # Bedrock gives an answer no id of its own.
            upstream_id=request_id(self._headers),
            upstream_request_id=request_id(self._headers),
            service_tier=tier or "",
            rate_limits=rate_limits(self._headers),
        )
        return Event(started=started)

    def block_start(self, index: int, start: dict[str, Any]) -> list[Event]:
        if "toolUse" in start and start["toolUse"].get("type") != "server_tool_use":
            use = start["toolUse"]
            block = self._open(index, "toolUse")
            return self._calls.begin(index, use.get("toolUseId") or "", use["name"], block.item)
        kind = next(iter(start), "")
        block = self._open(index, kind if kind in ("text", "image") else "opaque")
        block.data = dict(start)
        return []

    def block_delta(self, index: int, delta: dict[str, Any]) -> list[Event]:
        block = self._blocks.get(index)
        events: list[Event] = []
        if "reasoningContent" in delta:
            block = block or self._open(index, "reasoningContent")
            events += self._reasoning(block, delta["reasoningContent"])
        if delta.get("text"):
            block = block or self._open(index, "text")
            events += self._text(block, delta["text"])
        if "citation" in delta:
            block = block or self._open(index, "text")
            block.citations.append(delta["citation"])
        if "toolUse" in delta:
            piece = delta["toolUse"].get("input") or ""
            if block is not None and block.kind == "toolUse":
                events += self._calls.piece(index, piece)
            elif block is not None:
                block.pieces.append(piece)
        if "toolResult" in delta and block is not None:
            result = block.data.setdefault("toolResult", {})
            result.setdefault("content", []).extend(delta["toolResult"])
        return events

    def block_stop(self, index: int) -> list[Event]:
        block = self._blocks.pop(index, None)
        if block is None:
            return []  # it was empty
        if block.kind == "toolUse":
            return self._calls.end(index)
        if block.kind == "reasoningContent" and block.signature:
            return [_blob(block, SIGNATURE, block.signature)]
        if block.kind == "text":
            return [self._annotation(block, citation) for citation in block.citations]
        if block.kind == "opaque":
            return [_opaque(block)]
        return []

    def whole_block(self, index: int, block: dict[str, Any]) -> list[Event]:
        """A block of an answer that was not streamed."""
        if "toolUse" in block and block["toolUse"].get("type") != "server_tool_use":
            events = self.block_start(index, block)
            given = block["toolUse"].get("input")
            text = orjson.dumps({} if given is None else given).decode()
            return events + self._calls.piece(index, text) + self._calls.end(index)
        if "reasoningContent" in block:
            content = block["reasoningContent"]
            content = content.get("reasoningText") or content
            events = self.block_delta(index, {"reasoningContent": content})
        elif "citationsContent" in block:
            cited = block["citationsContent"]
            text = "".join(piece.get("text") or "" for piece in cited.get("content") or ())
            events = self.block_delta(index, {"text": text})
            for citation in cited.get("citations") or ():
                events += self.block_delta(index, {"citation": citation})
        elif "text" in block:
            events = self.block_delta(index, block)
        else:
            events = self.block_start(index, block)
        return events + self.block_stop(index)

    def message_stop(self, reason: str) -> list[Event]:
        """Why it stopped, after what was left open; `InferenceError` where there is no answer."""
        if reason in _FAILED:
            raise InferenceError(
                "upstream_error",
                f"the model broke off: {reason}",
                upstream_status=200,
                upstream_request_id=request_id(self._headers),
            )
        self.has_reason = True
        events = [event for index in list(self._blocks) for event in self.block_stop(index)]
        if self._fences is not None and (rest := self._fences.close()):
            events.append(self._shown(rest, max(0, self._items - 1)))
        finish = _FINISH.get(reason, event_pb2.FINISH_REASON_STOP)
        if finish == event_pb2.FINISH_REASON_TOOL_CALLS and not self._calls.count:
            # The tool was ours, or the server's own.
            finish = event_pb2.FINISH_REASON_STOP
        finished = event_pb2.ChoiceFinished(reason=finish, upstream_reason=reason)
        return [*events, Event(choice_finished=finished)]

    def metadata(self, usage: Any) -> None:
        self._usage = usage
        self.has_usage = True

    def end(self) -> Event:
        """The last event: what it cost."""
        usage = usage_of(self._usage)
        if usage is None:
            tokens = -(-self._length // _CHARACTERS_PER_TOKEN)
            usage = event_pb2.Usage(output_tokens=tokens, estimated=True)
        return Event(completed=event_pb2.Completed(usage=usage))

    def _open(self, index: int, kind: str) -> _Block:
        if kind == "text" and self._last_kind == "text":
            # Cited text comes in many blocks: to the caller it is one message.
            item = self._items - 1
        else:
            item = self._items
            self._items += 1
        self._last_kind = kind
        block = self._blocks[index] = _Block(kind, item, self._length)
        return block

    def _reasoning(self, block: _Block, content: dict[str, Any]) -> list[Event]:
        block.signature += content.get("signature") or ""
        events: list[Event] = []
        if text := content.get("text"):
            events.append(Event(reasoning=event_pb2.ReasoningDelta(item=block.item, text=text)))
        if redacted := content.get("redactedContent"):
            events.append(_blob(block, REDACTED, redacted))
        return events

    def _text(self, block: _Block, text: str) -> list[Event]:
        if self._fences is not None:
            text = self._fences.feed(text)
        return [self._shown(text, block.item)] if text else []

    def _shown(self, text: str, item: int) -> Event:
        self._length += len(text)
        return Event(text=event_pb2.TextDelta(item=item, text=text))

    def _annotation(self, block: _Block, citation: Any) -> Event:
        note = orjson.dumps(_annotated(citation, block.start, self._length))
        return Event(annotation=event_pb2.AnnotationEvent(item=block.item, json=note))


def _annotated(citation: Any, start: int, end: int) -> Any:
    """A citation of a web page as OpenAI writes it; any other, which OpenAI lacks, as it came."""
    place = citation.get("location") if isinstance(citation, dict) else None
    web = place.get("web") if isinstance(place, dict) else None
    if not isinstance(web, dict) or not web.get("url"):
        return citation
    return {
        "type": "url_citation",
        "url_citation": {
            "url": web["url"],
            "title": citation.get("title") or "",
            "start_index": start,
            "end_index": end,
        },
    }


def _blob(block: _Block, kind: str, data: str) -> Event:
    blob = content_pb2.Blob(issuer=ISSUER, kind=kind, data=data.encode())
    return Event(blob=event_pb2.BlobEvent(item=block.item, blob=blob))


def _opaque(block: _Block) -> Event:
    """A block that goes back as it came, such as a call of a tool that Bedrock runs."""
    if block.pieces:
        text = "".join(block.pieces)
        try:
            given = orjson.loads(text)
        except orjson.JSONDecodeError:
            given = {"_raw": text}
        block.data["toolUse"] = {**block.data.get("toolUse", {}), "input": given}
    kind = next(iter(block.data), "")
    whole = content_pb2.Opaque(type=kind, json=orjson.dumps(block.data), issuer=ISSUER)
    return Event(opaque=event_pb2.OpaqueEvent(item=block.item, opaque=whole))
