"""Renders a whole answer as the Messages API does: content blocks, stop reason and usage.

What only a provider of the same format says (details of a stop, what its own tools did) comes in
`Completed.extra` and in opaque parts, and is shown as it came.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import orjson
from msgspec import Raw

from broker.answer import Fold
from broker.parts import AudioPart, CallPart, ImagePart, OpaquePart, ReasoningPart, SaidPart
from broker.translate import carry
from broker.translate.form import JSON
from broker.v1 import content_pb2, event_pb2, generation_pb2

_json = msgspec.json.Encoder().encode

_STOP = event_pb2.FINISH_REASON_STOP
_LENGTH = event_pb2.FINISH_REASON_LENGTH
# The format's own words, which providers of other formats may use too, and what they stand for.
_WORDS = {
    "end_turn": _STOP,
    "stop_sequence": _STOP,
    "pause_turn": _STOP,
    "max_tokens": _LENGTH,
    "model_context_window_exceeded": _LENGTH,
    "tool_use": event_pb2.FINISH_REASON_TOOL_CALLS,
    "refusal": event_pb2.FINISH_REASON_CONTENT_FILTER,
}
_REASONS = {
    _STOP: "end_turn",
    _LENGTH: "max_tokens",
    event_pb2.FINISH_REASON_TOOL_CALLS: "tool_use",
    event_pb2.FINISH_REASON_CONTENT_FILTER: "refusal",
}
_TIERS = {"default": "standard", "priority": "priority", "batch": "batch"}
# What of `Completed.extra` stands in the message; usage is merged.
USAGE = "usage"

Block = dict[str, Any]


def stop_reason(finished: event_pb2.ChoiceFinished) -> str:
    """The format's word for the end of an answer."""
    said = finished.upstream_reason
    if said in _WORDS and _WORDS[said] == finished.reason:
        return said
    if finished.stop_sequence and finished.reason == _STOP:
        return "stop_sequence"
    return _REASONS.get(finished.reason, "end_turn")


def usage_of(usage: event_pb2.Usage, tier: str, extra: Mapping[str, bytes]) -> dict[str, Any]:
    """The `usage` object; `extra` has what else a provider of this format counts."""
    written = usage.cache_write_tokens
    shown: dict[str, Any] = {
        "input_tokens": usage.input_tokens + usage.input_audio_tokens + usage.input_image_tokens,
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": usage.cache_read_tokens,
    }
    if written:
        an_hour = usage.cache_write_1h_tokens
        shown["cache_creation"] = {
            "ephemeral_5m_input_tokens": written - an_hour,
            "ephemeral_1h_input_tokens": an_hour,
        }
    shown["output_tokens"] = (
        usage.output_tokens
        + usage.reasoning_tokens
        + usage.output_audio_tokens
        + usage.output_image_tokens
    )
    if usage.reasoning_tokens:
        shown["output_tokens_details"] = {"thinking_tokens": usage.reasoning_tokens}
    if usage.tool_calls:
        calls = usage.tool_calls.items()
        shown["server_tool_use"] = {f"{name}_requests": count for name, count in sorted(calls)}
    if tier in _TIERS:
        shown["service_tier"] = _TIERS[tier]
    if usage.estimated:
        shown["estimated"] = True
    if USAGE in extra:
        shown |= orjson.loads(extra[USAGE])
    return shown


def message(answer_id: str, model: str, usage: dict[str, Any]) -> dict[str, Any]:
    """A message without content, as it begins."""
    return {
        "id": answer_id,
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage,
    }


def citation(data: bytes) -> Any:
    """An annotation as a citation; those of other formats have no text that they cite."""
    found = orjson.loads(data)
    cited = found.get("url_citation") if isinstance(found, dict) else None
    if not isinstance(cited, dict):
        return found
    return {
        "type": "web_search_result_location",
        "url": cited.get("url") or "",
        "title": cited.get("title") or "",
        "cited_text": "",
        "encrypted_index": "",
    }


def signature_of(blobs: Sequence[content_pb2.Blob]) -> str:
    """The signature of a thinking block with this state; "" without any."""
    own = [blob.data for blob in blobs if blob.issuer == carry.ANTHROPIC]
    if own:
        return b"".join(own).decode()
    return carry.seal(blobs) if blobs else ""


def is_redacted(blob: content_pb2.Blob) -> bool:
    """Whether it is a block of its own."""
    return blob.issuer == carry.ANTHROPIC and blob.kind == "redacted_thinking"


def image_text(delta: event_pb2.ImageDelta) -> str:
    """A picture as text, since answers in this format have none."""
    url = delta.url
    if delta.HasField("image"):
        kind = delta.image.media_type or "image/png"
        url = f"data:{kind};base64,{b64encode(delta.image.data).decode()}"
    return f"![image]({url})"


class MessagesAnswer:
    """Takes the events of one answer in and renders the message."""

    content_type = JSON

    def __init__(self, answer_id: str, created: int, request: generation_pb2.Request) -> None:
        self._id = answer_id
        self._fold = Fold()

    def feed(self, events: Sequence[event_pb2.Event]) -> None:
        """Take more events in. Raises `InferenceError` when the answer failed."""
        self._fold.feed(events)

    def render(self) -> bytes:
        """The body, once the answer is complete."""
        fold, choice = self._fold, self._fold.choice(0)
        started = fold.started
        usage = usage_of(fold.usage or event_pb2.Usage(), started.service_tier, fold.extra)
        shown = message(self._id, started.model, usage)
        for kind, part in choice.parts():
            shown["content"] += _RENDER[kind](part)
        finished = event_pb2.ChoiceFinished(
            reason=choice.finish_reason or _STOP,
            upstream_reason=choice.upstream_reason,
            stop_sequence=choice.stop_sequence,
        )
        shown["stop_reason"] = stop_reason(finished)
        shown["stop_sequence"] = choice.stop_sequence or None
        for name, data in fold.extra.items():
            if name != USAGE:
                shown[name] = Raw(data)
        return _json(shown)


def _said(part: SaidPart) -> Iterator[Block]:
    text = "".join(part.pieces)
    if text or part.annotations:
        block: Block = {"type": "text", "text": text}
        if part.annotations:
            block["citations"] = [citation(data) for data in part.annotations]
        yield block


def _thought(part: ReasoningPart) -> Iterator[Block]:
    rest = []
    for blob in part.blobs:
        if is_redacted(blob):
            yield {"type": "redacted_thinking", "data": blob.data.decode()}
        else:
            rest.append(blob)
    text = "".join(part.pieces)
    if not text:
        text = "\n\n".join("".join(part.summary[number]) for number in sorted(part.summary))
    if text or rest:
        yield {"type": "thinking", "thinking": text, "signature": signature_of(rest)}


def _called(part: CallPart) -> Iterator[Block]:
    block: Block = {"type": "tool_use", "id": part.call_id, "name": part.name}
    block["input"] = _input("".join(part.pieces))
    yield block | {name: Raw(data) for name, data in part.extra.items()}


def _input(arguments: str) -> Any:
    """The arguments as the object that the format wants; what is none stays text inside one."""
    if not arguments.strip():
        return {}
    try:
        value = orjson.loads(arguments)
    except orjson.JSONDecodeError:
        value = None
    return Raw(arguments.encode()) if isinstance(value, dict) else {"_raw": arguments}


def _opaque(part: OpaquePart) -> Iterator[Block]:
    if part.opaque.issuer == carry.ANTHROPIC:
        yield orjson.loads(part.opaque.json)


def _spoken(part: AudioPart) -> Iterator[Block]:
    if text := "".join(part.transcript):
        yield {"type": "text", "text": text}


def _drawn(part: ImagePart) -> Iterator[Block]:
    yield {"type": "text", "text": image_text(part.delta)}


_RENDER: dict[str, Callable[[Any], Iterator[Block]]] = {
    "text": _said,
    "refusal": _said,
    "reasoning": _thought,
    "tool_call": _called,
    "opaque": _opaque,
    "audio": _spoken,
    "image": _drawn,
}
