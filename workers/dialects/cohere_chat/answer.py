"""Turns what Cohere answers, whole or in deltas, into hub events: one answer's state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from broker.errors import InferenceError
from broker.v1 import event_pb2, generation_pb2
from workers.dialects.cohere_chat.usage import usage_of
from workers.fences import FenceStripper
from workers.headers import rate_limits, request_id
from workers.standins import wants_plain_json, wants_schema
from workers.toolcalls import ToolCalls

Event = event_pb2.Event

_FINISH = {
    "COMPLETE": event_pb2.FINISH_REASON_STOP,
    "STOP_SEQUENCE": event_pb2.FINISH_REASON_STOP,
    "MAX_TOKENS": event_pb2.FINISH_REASON_LENGTH,
    "ERROR_LIMIT": event_pb2.FINISH_REASON_LENGTH,
    "TOOL_CALL": event_pb2.FINISH_REASON_TOOL_CALLS,
    "ERROR_TOXIC": event_pb2.FINISH_REASON_CONTENT_FILTER,
}
# Words that stand where the finish reason does and mean that there is no answer.
_FAILED = {
    "ERROR": ("upstream_error", "Cohere ended the answer with an error"),
    "TIMEOUT": ("stalled", "Cohere ran out of time before the answer was finished"),
}
# Citations of what the caller is shown as the answer's text.
_OF_TEXT = (None, "TEXT_CONTENT")
# Rough, for an answer that came without counts.
_CHARACTERS_PER_TOKEN = 4


class Answer:
    """The state of one answer. Methods are named after what Cohere sends and return events."""

    def __init__(self, request: generation_pb2.Request, headers: Mapping[str, str]) -> None:
        asked = request.generate
        self._headers = headers
        self._calls = ToolCalls(asked)
        wants_json = wants_plain_json(asked) or wants_schema(asked)
        self._fences = FenceStripper() if wants_json else None
        self._items = 0
        self._plan_item = -1
        self._text_item = -1
        self._blocks: dict[Any, tuple[str, int]] = {}
        # Where in the visible text each block of it begins: citations count from there.
        self._starts: dict[Any, int] = {}
        self._length = 0

    def start(self, upstream_id: Any) -> Event:
        started = event_pb2.Started(
            upstream_id=str(upstream_id or ""),
            upstream_request_id=request_id(self._headers),
            rate_limits=rate_limits(self._headers),
        )
        return Event(started=started)

    def plan(self, text: Any) -> list[Event]:
        """What the model means to do with its tools: shown as reasoning."""
        if not text:
            return []
        if self._plan_item < 0:
            self._plan_item = self._next_item()
        return [_reasoning(self._plan_item, str(text))]

    def content_start(self, index: Any, block: dict[str, Any]) -> list[Event]:
        kind = "thinking" if block.get("type") == "thinking" else "text"
        if kind == "text":
            if self._text_item < 0:
                self._text_item = self._next_item()
            self._blocks[index] = (kind, self._text_item)
            self._starts[index] = self._length
        else:
            self._blocks[index] = (kind, self._next_item())
        return self.content_delta(index, block)

    def content_delta(self, index: Any, delta: dict[str, Any], logprobs: Any = None) -> list[Event]:
        if index not in self._blocks:
            kind = "thinking" if delta.get("thinking") else "text"
            return self.content_start(index, {"type": kind} | delta)
        _, item = self._blocks[index]
        events: list[Event] = []
        if thinking := delta.get("thinking"):
            events.append(_reasoning(item, thinking))
        text = delta.get("text") or ""
        if self._fences is not None:
            text = self._fences.feed(text)
        if text:
            events.append(self._text(item, text, _logprobs(logprobs)))
        return events

    def tool_start(self, index: Any, call: dict[str, Any]) -> list[Event]:
        function = call.get("function") or {}
        events = self._calls.begin(
            index, call.get("id") or "", function.get("name") or "", self._next_item()
        )
        return events + self._calls.piece(index, function.get("arguments") or "")

    def tool_delta(self, index: Any, call: dict[str, Any]) -> list[Event]:
        return self._calls.piece(index, (call.get("function") or {}).get("arguments") or "")

    def tool_end(self, index: Any) -> list[Event]:
        return self._calls.end(index)

    def citation(self, citation: Any) -> list[Event]:
        """An annotation of the text; citations of a plan or of thoughts have no place."""
        if not isinstance(citation, dict) or citation.get("type") not in _OF_TEXT:
            return []
        shown = _annotation(citation, self._starts.get(citation.get("content_index"), 0))
        item = max(0, self._text_item)
        note = event_pb2.AnnotationEvent(item=item, json=orjson.dumps(shown))
        return [Event(annotation=note)]

    def end(self, reason: str, usage: Any, error: Any = None) -> list[Event]:
        """The end: what was left open, why it stopped, what it cost.

        Raises `InferenceError` for a reason that means there is no answer.
        """
        reason = reason.upper()
        if reason in _FAILED:
            name, message = _FAILED[reason]
            message = f"{message}: {error}" if error else message
            raise InferenceError(
                name, message, upstream_status=200, upstream_request_id=request_id(self._headers)
            )
        events = self._calls.end_all()
        if self._fences is not None and (rest := self._fences.close()):
            events.append(self._text(max(0, self._text_item), rest, b""))
        finish = _FINISH.get(reason, event_pb2.FINISH_REASON_STOP)
        if finish == event_pb2.FINISH_REASON_TOOL_CALLS and not self._calls.count:
            finish = event_pb2.FINISH_REASON_STOP  # the tool was ours
        finished = event_pb2.ChoiceFinished(reason=finish, upstream_reason=reason)
        events.append(Event(choice_finished=finished))
        counted = usage_of(usage)
        if counted is None:
            tokens = -(-self._length // _CHARACTERS_PER_TOKEN)
            counted = event_pb2.Usage(output_tokens=tokens, estimated=True)
        events.append(Event(completed=event_pb2.Completed(usage=counted)))
        return events

    def _text(self, item: int, text: str, logprobs: bytes) -> Event:
        self._length += len(text)
        return Event(text=event_pb2.TextDelta(item=item, text=text, logprobs=logprobs))

    def _next_item(self) -> int:
        self._items += 1
        return self._items - 1


def _reasoning(item: int, text: str) -> Event:
    return Event(reasoning=event_pb2.ReasoningDelta(item=item, text=text))


def _annotation(citation: dict[str, Any], offset: int) -> Any:
    """A citation of a web page as OpenAI writes it; any other, which OpenAI lacks, as it came."""
    for source in citation.get("sources") or ():
        cited = source.get("document") or source.get("tool_output") or {}
        if isinstance(cited, dict) and cited.get("url"):
            return {
                "type": "url_citation",
                "url_citation": {
                    "url": cited["url"],
                    "title": cited.get("title") or "",
                    "start_index": offset + (citation.get("start") or 0),
                    "end_index": offset + (citation.get("end") or 0),
                },
            }
    return citation


def _logprobs(items: Any) -> bytes:
    """Log probabilities as OpenAI writes them: a piece of several tokens counts as one."""
    if isinstance(items, dict):
        items = [items]
    if not isinstance(items, list):
        return b""
    shown = [
        {
            "token": item.get("text") or "",
            "logprob": sum(item.get("logprobs") or ()),
            "bytes": list((item.get("text") or "").encode()),
            "top_logprobs": [],
        }
        for item in items
        if isinstance(item, dict)
    ]
    return orjson.dumps(shown) if shown else b""
