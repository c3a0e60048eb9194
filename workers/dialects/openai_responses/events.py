"""Turns the events of one response into hub events, keeping what has to be known to the end.

An output item is the hub's item of the same number. What a server tells only at the end of an item
or of the response (some leave pieces out) is told then; what was told piece by piece is not told
again.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from typing import Any

import orjson

from broker.errors import InferenceError
from broker.v1 import content_pb2, event_pb2, generation_pb2
from workers.counts import count
from workers.dialects.openai_responses.fields import (
    arguments_text,
    index_at,
    nested,
    number_at,
    objects_at,
    text_at,
    tier_at,
)
from workers.dialects.openai_responses.items import ISSUER
from workers.dialects.openai_responses.usage import usage_of
from workers.estimate import estimate
from workers.headers import rate_limits, request_id

_Event = event_pb2.Event
_Events = list[event_pb2.Event]
_Said = dict[str, Any]

_INCOMPLETE = {
    "max_output_tokens": event_pb2.FINISH_REASON_LENGTH,
    "content_filter": event_pb2.FINISH_REASON_CONTENT_FILTER,
}
_CALLS = {
    "function_call": ("arguments", content_pb2.TOOL_KIND_FUNCTION),
    "custom_tool_call": ("input", content_pb2.TOOL_KIND_CUSTOM),
}
_IMAGE = "image_generation_call"
_OWN = frozenset({"message", "reasoning", _IMAGE, *_CALLS})
_FACTS = ("background", "output_format", "quality", "size")
# What a step says of its place, and padding: ours are others.
_PLACE = frozenset({"sequence_number", "item_id", "output_index", "obfuscation"})


class _Item:
    """One output item so far: which of its texts were told, by kind and number."""

    __slots__ = ("call", "notes", "number", "phase", "told", "type")

    def __init__(self, number: int, kind: str) -> None:
        self.number = number
        self.type = kind
        self.phase = ""
        self.call = -1
        self.notes = 0
        self.told: dict[tuple[str, int], int] = {}


class AnswerEvents:
    """The events of the answer to a request; `headers` are those that it came with."""

    def __init__(self, request: generation_pb2.Request, headers: Mapping[str, str]) -> None:
        self._request = request
        self._headers = headers
        self._started = False
        self._items: dict[int, _Item] = {}
        self._by_id: dict[str, _Item] = {}
        self._done: set[int] = set()
        self._calls = 0
        # Of the answer, and of the reasoning before it.
        self._characters = 0
        self._thought = 0

    def step(self, kind: str, said: _Said) -> _Events:
        """The hub events of one event of the stream."""
        events: _Events = []
        response = said.get("response")
        if isinstance(response, dict):
            self._start(response, events)
        elif kind == "response.output_item.added":
            self._added(said, events)
        elif kind == "response.output_item.done":
            self._whole(said, events)
        else:
            item = self._find(said)
            if item is not None and item.type not in _OWN:
                self._opaque_step(item, kind, said, events)
            elif item is not None and kind in _STEPS:
                _STEPS[kind](self, item, said, events)
        return events

    def finish(self, response: _Said) -> _Events:
        """The last events: items that were not told before, why it ended, what it cost."""
        events: _Events = []
        self._start(response, events)
        output = response.get("output")
        for number, item in enumerate(output if isinstance(output, list) else ()):
            if isinstance(item, dict) and number not in self._done:
                known, before = self._items.get(number), len(events)
                self._whole({"output_index": number, "item": item}, events)
                if known is not None and len(events) > before and events[-1].HasField("opaque"):
                    events[-1].opaque.done = False  # it was never said to be done
        details = response.get("incomplete_details")
        reason = details.get("reason") if isinstance(details, dict) else None
        finished = event_pb2.ChoiceFinished(upstream_reason=str(response.get("status") or ""))
        if response.get("status") == "incomplete":
            finished.upstream_reason = str(reason or "incomplete")
            finished.reason = _INCOMPLETE.get(str(reason), event_pb2.FINISH_REASON_LENGTH)
        else:
            finished.reason = (
                event_pb2.FINISH_REASON_TOOL_CALLS if self._calls else event_pb2.FINISH_REASON_STOP
            )
        kinds = (item.type for item in self._items.values())
        usage = usage_of(response.get("usage"), kinds, self._estimate)
        events.append(_Event(choice_finished=finished))
        tier = tier_at(response)
        events.append(_Event(completed=event_pb2.Completed(usage=usage, service_tier=tier)))
        return events

    def _estimate(self) -> event_pb2.Usage:
        return estimate(self._request, self._characters, self._thought)

    # --- items ---

    def _start(self, response: _Said, events: _Events) -> None:
        if self._started:
            return
        self._started = True
        started = event_pb2.Started(
            model=text_at(response, "model"),
            upstream_id=text_at(response, "id"),
            created=count(response.get("created_at")) or 0,
            service_tier=tier_at(response),
            upstream_request_id=request_id(self._headers),
            rate_limits=rate_limits(self._headers),
        )
        events.append(_Event(started=started))

    def _find(self, said: _Said) -> _Item | None:
        number = index_at(said, "output_index")
        if number is not None and number in self._items:
            return self._items[number]
        return self._by_id.get(text_at(said, "item_id"))

    def _added(self, said: _Said, events: _Events) -> None:
        shown = said.get("item")
        if not isinstance(shown, dict):
            return
        if not self._started:
            self._start({}, events)
        number = index_at(said, "output_index")
        if number is None or number in self._items:
            number = max(self._items, default=-1) + 1
        item = _Item(number, text_at(shown, "type"))
        self._items[number] = item
        if name := text_at(shown, "id"):
            self._by_id[name] = item
        if item.type in _OPEN:
            _OPEN[item.type](self, item, shown, events)
        elif item.type not in _OWN:
            self._opaque(item, shown, events, done=False)

    def _whole(self, said: _Said, events: _Events) -> None:
        shown = said.get("item")
        if not isinstance(shown, dict):
            return
        item = self._find(said) or self._by_id.get(text_at(shown, "id"))
        if item is None:
            self._added(said, events)
            item = self._find(said) or self._items[max(self._items)]
        if item.number in self._done:
            return
        self._done.add(item.number)
        if item.type in _CLOSE:
            _CLOSE[item.type](self, item, shown, events)
        else:
            self._opaque(item, shown, events, done=True)

    # --- messages ---

    def _open_message(self, item: _Item, shown: _Said, _events: _Events) -> None:
        item.phase = text_at(shown, "phase")

    def _tell_text(
        self, item: _Item, number: int, text: str, logprobs: Any, events: _Events
    ) -> None:
        event = _Event()
        delta = event.text
        delta.item = item.number
        delta.text = text
        if item.phase:
            delta.phase, item.phase = item.phase, ""
        if isinstance(logprobs, list) and logprobs:
            delta.logprobs = orjson.dumps(logprobs)
        self._tell(item, "text", number, text)
        events.append(event)

    def _tell(self, item: _Item, kind: str, number: int, text: str) -> None:
        if item.type == "reasoning":
            self._thought += len(text)
        else:
            self._characters += len(text)
        key = (kind, number)
        item.told[key] = item.told.get(key, 0) + len(text)

    def _text_delta(self, item: _Item, said: _Said, events: _Events) -> None:
        text = text_at(said, "delta")
        self._tell_text(item, number_at(said, "content_index"), text, said.get("logprobs"), events)

    def _text_done(self, item: _Item, said: _Said, events: _Events) -> None:
        number = number_at(said, "content_index")
        if ("text", number) not in item.told and text_at(said, "text"):
            self._tell_text(item, number, text_at(said, "text"), said.get("logprobs"), events)

    def _refusal_delta(self, item: _Item, said: _Said, events: _Events) -> None:
        self._tell_refusal(item, number_at(said, "content_index"), text_at(said, "delta"), events)

    def _refusal_done(self, item: _Item, said: _Said, events: _Events) -> None:
        number = number_at(said, "content_index")
        if ("refusal", number) not in item.told:
            self._tell_refusal(item, number, text_at(said, "refusal"), events)

    def _tell_refusal(self, item: _Item, number: int, text: str, events: _Events) -> None:
        self._tell(item, "refusal", number, text)
        events.append(_Event(refusal=event_pb2.RefusalDelta(item=item.number, text=text)))

    def _annotation(self, item: _Item, said: _Said, events: _Events) -> None:
        item.notes += 1
        note = orjson.dumps(nested(said.get("annotation")))
        events.append(_Event(annotation=event_pb2.AnnotationEvent(item=item.number, json=note)))

    def _close_message(self, item: _Item, shown: _Said, events: _Events) -> None:
        item.phase = item.phase if item.told else text_at(shown, "phase")
        notes = 0
        for number, part in enumerate(objects_at(shown, "content")):
            if part.get("type") == "refusal":
                self._refusal_done(item, {**part, "content_index": number}, events)
            elif part.get("type") == "output_text":
                self._text_done(item, {**part, "content_index": number}, events)
                for note in objects_at(part, "annotations"):
                    notes += 1
                    if notes > item.notes:
                        self._annotation(item, {"annotation": note}, events)
        if not item.told:
            self._tell_text(item, 0, "", None, events)  # it is there, and empty

    # --- reasoning ---

    def _open_reasoning(self, item: _Item, shown: _Said, events: _Events) -> None:
        # The state that comes at the end is bound to this id.
        self._blob(item, "item_id", text_at(shown, "id"), events)

    def _blob(self, item: _Item, kind: str, text: str, events: _Events) -> None:
        blob = content_pb2.Blob(issuer=ISSUER, kind=kind, data=text.encode())
        events.append(_Event(blob=event_pb2.BlobEvent(item=item.number, blob=blob)))

    def _tell_reasoning(
        self, item: _Item, kind: str, number: int, text: str, events: _Events
    ) -> None:
        if not text:
            return
        self._tell(item, kind, number, text)
        summary = kind == "summary"
        delta = event_pb2.ReasoningDelta(item=item.number, text=text, summary=summary)
        delta.part = number if summary else 0
        events.append(_Event(reasoning=delta))

    def _close_reasoning(self, item: _Item, shown: _Said, events: _Events) -> None:
        for kind, name in (("summary", "summary"), ("thought", "content")):
            for number, part in enumerate(objects_at(shown, name)):
                if (kind, number) not in item.told:
                    self._tell_reasoning(item, kind, number, text_at(part, "text"), events)
        if state := text_at(shown, "encrypted_content"):
            self._blob(item, "encrypted_content", state, events)

    # --- calls ---

    def _open_call(self, item: _Item, shown: _Said, events: _Events) -> None:
        field, kind = _CALLS[item.type]
        item.call = self._calls
        self._calls += 1
        said = arguments_text(shown.get(field))
        event = self._call_event(item, said)
        event.tool_call.call_id = text_at(shown, "call_id") or text_at(shown, "id")
        event.tool_call.name = text_at(shown, "name")
        event.tool_call.kind = kind
        event.tool_call.namespace = text_at(shown, "namespace")
        if not event.tool_call.name:
            raise InferenceError("upstream_error", "the provider sent a tool call with no name")
        events.append(event)

    def _call_event(self, item: _Item, piece: str) -> _Event:
        if piece:
            self._tell(item, "call", 0, piece)
        delta = event_pb2.ToolCallDelta(item=item.number, index=item.call, arguments=piece)
        return _Event(tool_call=delta)

    def _call_delta(self, item: _Item, said: _Said, events: _Events) -> None:
        if piece := arguments_text(said.get("delta")):
            events.append(self._call_event(item, piece))

    def _call_done(self, item: _Item, said: _Said, events: _Events) -> None:
        whole = arguments_text(said.get("arguments") or said.get("input"))
        if whole and not item.told:
            events.append(self._call_event(item, whole))

    def _close_call(self, item: _Item, shown: _Said, events: _Events) -> None:
        self._call_done(item, shown, events)
        if not item.told and item.type == "function_call":
            events.append(self._call_event(item, "{}"))  # an empty text is no JSON

    # --- images ---

    def _open_image(self, item: _Item, _shown: _Said, events: _Events) -> None:
        events.append(_Event(image=event_pb2.ImageDelta(item=item.number, partial=True)))

    def _partial_image(self, item: _Item, said: _Said, events: _Events) -> None:
        delta = event_pb2.ImageDelta(item=item.number, partial=True)
        delta.partial_index = number_at(said, "partial_image_index")
        _fill_image(delta, said, "partial_image_b64")
        events.append(_Event(image=delta))

    def _close_image(self, item: _Item, shown: _Said, events: _Events) -> None:
        event = _Event()
        event.image_facts.SetInParent()
        for name in _FACTS:
            setattr(event.image_facts, name, text_at(shown, name))
        delta = event_pb2.ImageDelta(item=item.number)
        delta.revised_prompt = text_at(shown, "revised_prompt")
        if shown.get("result"):
            _fill_image(delta, shown, "result")
        events += [event, _Event(image=delta)]

    # --- items that the hub does not interpret ---

    def _opaque(self, item: _Item, shown: _Said, events: _Events, *, done: bool) -> None:
        event = _Event()
        event.opaque.item = item.number
        event.opaque.done = done
        event.opaque.opaque.type = item.type
        event.opaque.opaque.issuer = ISSUER
        event.opaque.opaque.json = orjson.dumps(shown)
        events.append(event)

    def _opaque_step(self, item: _Item, kind: str, said: _Said, events: _Events) -> None:
        step = {name: value for name, value in said.items() if name not in _PLACE}
        event = _Event()
        event.opaque.item = item.number
        event.opaque.opaque.type = item.type
        event.opaque.opaque.issuer = ISSUER
        event.opaque.step = orjson.dumps({**step, "type": kind})
        events.append(event)


def _reasoning_step(kind: str, number: str, *, whole: bool) -> Callable[..., None]:
    def step(answer: AnswerEvents, item: _Item, said: _Said, events: _Events) -> None:
        place = number_at(said, number)
        if whole and (kind, place) in item.told:
            return
        text = text_at(said, "text" if whole else "delta")
        answer._tell_reasoning(item, kind, place, text, events)

    return step


def _fill_image(delta: event_pb2.ImageDelta, said: _Said, name: str) -> None:
    try:
        delta.image.data = base64.b64decode(text_at(said, name), validate=True)
    except binascii.Error as exc:
        raise InferenceError("upstream_error", f"the provider sent a bad image: {exc}") from exc
    delta.image.media_type = f"image/{text_at(said, 'output_format') or 'png'}"


_Step = Callable[[AnswerEvents, _Item, _Said, _Events], None]
_STEPS: dict[str, _Step] = {
    "response.output_text.delta": AnswerEvents._text_delta,
    "response.output_text.done": AnswerEvents._text_done,
    "response.output_text.annotation.added": AnswerEvents._annotation,
    "response.refusal.delta": AnswerEvents._refusal_delta,
    "response.refusal.done": AnswerEvents._refusal_done,
    "response.reasoning_summary_text.delta": _reasoning_step(
        "summary", "summary_index", whole=False
    ),
    "response.reasoning_summary_text.done": _reasoning_step("summary", "summary_index", whole=True),
    "response.reasoning_text.delta": _reasoning_step("thought", "content_index", whole=False),
    "response.reasoning_text.done": _reasoning_step("thought", "content_index", whole=True),
    "response.function_call_arguments.delta": AnswerEvents._call_delta,
    "response.function_call_arguments.done": AnswerEvents._call_done,
    "response.custom_tool_call_input.delta": AnswerEvents._call_delta,
    "response.custom_tool_call_input.done": AnswerEvents._call_done,
    "response.image_generation_call.partial_image": AnswerEvents._partial_image,
}
_OPEN: dict[str, _Step] = {
    "message": AnswerEvents._open_message,
    "reasoning": AnswerEvents._open_reasoning,
    "function_call": AnswerEvents._open_call,
    "custom_tool_call": AnswerEvents._open_call,
    _IMAGE: AnswerEvents._open_image,
}
_CLOSE: dict[str, _Step] = {
    "message": AnswerEvents._close_message,
    "reasoning": AnswerEvents._close_reasoning,
    "function_call": AnswerEvents._close_call,
    "custom_tool_call": AnswerEvents._close_call,
    _IMAGE: AnswerEvents._close_image,
}
