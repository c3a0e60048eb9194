"""Turns GenerateContentResponse objects, a whole or a stream of them, into hub events."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

import orjson

from broker.errors import InferenceError
from broker.v1 import content_pb2, event_pb2, generation_pb2
from workers.dialects.gemini.grounding import citations, searches
from workers.dialects.gemini.logprobs import logprobs_of
from workers.dialects.gemini.names import ToolNames
from workers.dialects.gemini.output import wav_header
from workers.dialects.gemini.parts import CALL, EMPTY_TEXT, MEDIA, TEXT
from workers.dialects.gemini.usage import COUNTS, usage_of
from workers.headers import rate_limits, request_id
from workers.toolcalls import ToolCalls

Event = event_pb2.Event

_STOP = event_pb2.FINISH_REASON_STOP
_LENGTH = event_pb2.FINISH_REASON_LENGTH
_CALLS = event_pb2.FINISH_REASON_TOOL_CALLS
_FILTER = event_pb2.FINISH_REASON_CONTENT_FILTER

# Source: types.FinishReason of the official SDK. What is not here means that it stopped.
_FINISH = {
    "MAX_TOKENS": _LENGTH,
    "CONTINUATION": _LENGTH,
    "SAFETY": _FILTER,
    "RECITATION": _FILTER,
    "LANGUAGE": _FILTER,
    "BLOCKLIST": _FILTER,
    "PROHIBITED_CONTENT": _FILTER,
    "SPII": _FILTER,
    "MODEL_ARMOR": _FILTER,
    "ESCALATION": _FILTER,
    "PUP_LIMITED_DISABLED": _FILTER,
    "IMAGE_SAFETY": _FILTER,
    "IMAGE_PROHIBITED_CONTENT": _FILTER,
    "IMAGE_RECITATION": _FILTER,
}
# The model's answer came to nothing, unless it has a call all the same.
_FAILED = frozenset(
    {"MALFORMED_FUNCTION_CALL", "MALFORMED_RESPONSE", "MISSING_THOUGHT_SIGNATURE"}
    | {"TOO_MANY_TOOL_CALLS", "UNEXPECTED_TOOL_CALL"}
)
# What protobuf calls a field that is not set.
_NO_REASON = (None, "", "FINISH_REASON_UNSPECIFIED", "BLOCK_REASON_UNSPECIFIED")
_TIERS = {"standard": "default", "flex": "flex", "priority": "priority"}
_TRAFFIC = {
    "ON_DEMAND": "default",
    "ON_DEMAND_FLEX": "flex",
    "ON_DEMAND_PRIORITY": "priority",
}
# Parts of Google's own tools, which mean something to Gemini alone.
_OPAQUE = ("executableCode", "codeExecutionResult", "toolCall", "toolResponse", "fileData")
_NOT_IN_AN_ID = re.compile(r"[^A-Za-z0-9_-]")
_LONGEST_ID = 40
# Rough, for an answer that came without counts.
_CHARACTERS_PER_TOKEN = 4


class _Choice:
    """One candidate so far."""

    __slots__ = (
        "calls",
        "finish",
        "index",
        "items",
        "kind",
        "message",
        "parts",
        "searches",
        "sound",
        "sources",
        "text",
        "text_item",
    )

    def __init__(self, index: int, calls: ToolCalls) -> None:
        self.index = index
        self.calls = calls
        self.items = 0
        # Of the part before: what goes on with it is the same item.
        self.kind = ""
        self.parts = 0
        self.text: list[str] = []
        self.text_item = 0
        self.sound = False
        self.sources: list[dict[str, Any]] = []
        self.searches = 0
        self.finish = ""
        self.message = ""

    def item(self, kind: str) -> int:
        """The number of the output item for a part of this kind; "" never goes on."""
        if not kind or kind != self.kind:
            self.items += 1
        self.kind = kind
        return self.items - 1


class Answer:
    """The state of one answer; `chunk` takes the objects that it comes in."""

    def __init__(
        self, request: generation_pb2.Request, headers: Mapping[str, str], issuer: str
    ) -> None:
        self._request = request.generate
        self._headers = headers
        self._issuer = issuer
        self._names = ToolNames(request.generate)
        self._as_wav = request.generate.audio.format == "wav"
        self._choices: dict[int, _Choice] = {}
        self._counts: dict[str, Any] = {}
        self._id = ""
        self._started = False
        self._blocked = ""
        self._why_blocked = ""

    @property
    def is_whole(self) -> bool:
        """Whether Gemini said for every candidate why it stopped."""
        if self._blocked:
            return True
        return bool(self._choices) and all(c.finish for c in self._choices.values())

    def chunk(self, data: dict[str, Any]) -> list[Event]:
        """The events of one more object."""
        events = [] if self._started else [self._start(data)]
        feedback = data.get("promptFeedback")
        if feedback and feedback.get("blockReason") not in _NO_REASON:
            self._blocked = feedback["blockReason"]
            self._why_blocked = feedback.get("blockReasonMessage") or ""
        # Totals so far, where there are any: a later one stands in for an earlier one.
        self._counts |= data.get("usageMetadata") or {}
        for candidate in data.get("candidates") or ():
            events += self._candidate(candidate)
        return events

    def end(self) -> list[Event]:
        """Why the answer ended, and what it cost."""
        events: list[Event] = []
        if not self._choices:
            choice = self._choice(0)
            choice.finish, choice.message = self._blocked, self._why_blocked
        for choice in self._choices.values():
            events += self._finish(choice)
        return [*events, Event(completed=event_pb2.Completed(usage=self._usage()))]

    def _start(self, data: dict[str, Any]) -> Event:
        self._started = True
        self._id = data.get("responseId") or ""
        counts = data.get("usageMetadata") or {}
        tier = _TIERS.get(counts.get("serviceTier") or "")
        return Event(
            started=event_pb2.Started(
                model=data.get("modelVersion") or "",
                upstream_id=self._id,
                created=_seconds(data.get("createTime")),
                service_tier=tier or _TRAFFIC.get(counts.get("trafficType") or "", ""),
                upstream_request_id=request_id(self._headers),
                rate_limits=rate_limits(self._headers),
            )
        )

    def _choice(self, index: int) -> _Choice:
        choice = self._choices.get(index)
        if choice is None:
            choice = self._choices[index] = _Choice(index, ToolCalls(self._request))
        return choice

    def _candidate(self, candidate: dict[str, Any]) -> list[Event]:
        choice = self._choice(candidate.get("index") or 0)
        logprobs = logprobs_of(candidate.get("logprobsResult"))
        events: list[Event] = []
        for part in (candidate.get("content") or {}).get("parts") or ():
            choice.parts += 1
            for event in self._part(choice, part):
                if logprobs and event.HasField("text"):
                    event.text.logprobs = logprobs
                    logprobs = b""
                if choice.index:
                    getattr(event, event.WhichOneof("kind") or "").choice = choice.index
                events.append(event)
        if candidate.get("finishReason") not in _NO_REASON:
            choice.finish = candidate["finishReason"]
            choice.message = candidate.get("finishMessage") or ""
        if "groundingMetadata" in candidate or "citationMetadata" in candidate:
            choice.sources.append(candidate)
            choice.searches = max(choice.searches, searches(candidate))
        return events

    def _part(self, choice: _Choice, part: dict[str, Any]) -> Iterable[Event]:
        text = part.get("text")
        if text is not None:
            return self._text(choice, text, part)
        for name, read in _READERS.items():
            if name in part:
                return read(self, choice, part[name], part)
        return self._opaque(choice, part) if any(name in part for name in _OPAQUE) else ()

    def _text(self, choice: _Choice, text: str, part: dict[str, Any]) -> Iterable[Event]:
        signature = part.get("thoughtSignature")
        if part.get("thought"):
            item = choice.item("thought")
            thought = event_pb2.ReasoningDelta(item=item, text=text, summary=True)
            return [Event(reasoning=thought)] if text else []
        if signature:
            # A signed part stays apart, so that it finds its signature when it comes back.
            item = choice.item("")
            events = [self._blob(item, TEXT if text else EMPTY_TEXT, signature)]
        else:
            item = choice.item("text")
            events = []
        if text:
            choice.text.append(text)
            choice.text_item = item
            events.append(Event(text=event_pb2.TextDelta(item=item, text=text)))
        return events

    def _call(self, choice: _Choice, call: dict[str, Any], part: dict[str, Any]) -> list[Event]:
        item = choice.item("")
        wire = call.get("name") or ""
        name = self._names.theirs(wire)
        # The function that stands for the answer never comes back as a call.
        signed = [] if wire == self._names.answer_tool else self._signed(item, CALL, part)
        calls = choice.calls
        call_id = call.get("id") or self._call_id(choice.index, calls.count)
        arguments = orjson.dumps(call.get("args") or {}).decode()
        return [
            *signed,
            *calls.begin(item, call_id, name, item),
            *calls.piece(item, arguments),
            *calls.end(item),
        ]

    def _call_id(self, choice: int, number: int) -> str:
        """An id for a call that came without: unique, since the answer's is."""
        answer = _NOT_IN_AN_ID.sub("_", self._id)[:_LONGEST_ID]
        return f"call_{answer}_{choice}_{number}" if choice else f"call_{answer}_{number}"

    def _media(self, choice: _Choice, data: dict[str, Any], part: dict[str, Any]) -> list[Event]:
        kind = data.get("mimeType") or ""
        raw = base64.b64decode(data.get("data") or "", altchars=b"-_" if _safe(data) else None)
        if kind.startswith("image/"):
            item = choice.item("")
            image = content_pb2.InlineData(media_type=kind, data=raw)
            shown = Event(image=event_pb2.ImageDelta(item=item, image=image))
            return [*self._signed(item, MEDIA, part), shown]
        if not kind.startswith("audio/"):
            return self._opaque(choice, part)
        item = choice.item("audio")
        heard = event_pb2.AudioDelta(item=item)
        if not choice.sound:
            choice.sound = True
            heard.id = f"audio_{_NOT_IN_AN_ID.sub('_', self._id)[:_LONGEST_ID]}"
            if self._as_wav:
                raw = wav_header(kind, None if self._request.stream else len(raw)) + raw
        heard.data = raw
        return [Event(audio=heard)]

    def _opaque(self, choice: _Choice, part: dict[str, Any]) -> list[Event]:
        kind = next((name for name in part if name not in ("thought", "thoughtSignature")), "")
        whole = content_pb2.Opaque(type=kind, json=orjson.dumps(part), issuer=self._issuer)
        return [Event(opaque=event_pb2.OpaqueEvent(item=choice.item(""), opaque=whole))]

    def _signed(self, item: int, kind: str, part: dict[str, Any]) -> list[Event]:
        signature = part.get("thoughtSignature")
        return [self._blob(item, kind, signature)] if signature else []

    def _blob(self, item: int, kind: str, signature: str) -> Event:
        blob = content_pb2.Blob(issuer=self._issuer, kind=kind, data=signature.encode())
        return Event(blob=event_pb2.BlobEvent(item=item, blob=blob))

    def _finish(self, choice: _Choice) -> list[Event]:
        self._check(choice)
        events: list[Event] = []
        text = "".join(choice.text)
        for candidate in choice.sources:
            for found in citations(candidate, text):
                note = event_pb2.AnnotationEvent(item=choice.text_item, json=orjson.dumps(found))
                events.append(Event(annotation=note))
        reason = _FINISH.get(choice.finish, _FILTER if self._blocked else _STOP)
        if choice.calls.count and reason == _STOP:
            reason = _CALLS
        if reason == _FILTER and choice.message:
            refusal = event_pb2.RefusalDelta(item=choice.items, text=choice.message)
            events.append(Event(refusal=refusal))
        finished = event_pb2.ChoiceFinished(reason=reason, upstream_reason=choice.finish)
        events.append(Event(choice_finished=finished))
        for event in events:
            getattr(event, event.WhichOneof("kind") or "").choice = choice.index
        return events

    def _check(self, choice: _Choice) -> None:
        """Raises for what the model itself gave up: another try may do better."""
        nothing = not choice.parts and not self._counts.get("candidatesTokenCount")
        thought = self._counts.get("thoughtsTokenCount")
        if choice.finish in _FAILED and not choice.calls.count:
            said = choice.message or f"Gemini gave the answer up: {choice.finish}"
        elif choice.finish == "STOP" and nothing and not thought:
            said = "Gemini gave an empty answer."
        else:
            return
        raise InferenceError("upstream_error", said, upstream_request_id=request_id(self._headers))

    def _usage(self) -> event_pb2.Usage:
        choices = self._choices.values()
        if any(name in self._counts for name in COUNTS):
            usage = usage_of(self._counts)
        else:
            length = sum(len(text) for choice in choices for text in choice.text)
            tokens = -(-length // _CHARACTERS_PER_TOKEN)
            usage = event_pb2.Usage(output_tokens=tokens, estimated=True)
        if made := sum(choice.searches for choice in choices):
            usage.tool_calls["web_search"] = made
        return usage


_READERS: dict[str, Callable[[Answer, _Choice, dict[str, Any], dict[str, Any]], list[Event]]] = {
    "functionCall": Answer._call,
    "inlineData": Answer._media,
}


def _seconds(value: Any) -> int:
    """Unix seconds of an RFC 3339 time; 0 for none."""
    try:
        return int(datetime.fromisoformat(value).timestamp())
    except (TypeError, ValueError):
        return 0


def _safe(data: dict[str, Any]) -> bool:
    """Whether the base64 is in the letters that are safe in a URL."""
    text = data.get("data") or ""
    return "-" in text or "_" in text
