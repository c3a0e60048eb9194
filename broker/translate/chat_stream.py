"""Renders the events of an answer as the server-sent events of a chat completion stream.

A text delta is the hot path: its chunk is a prefix, the JSON string and a suffix, both made once.
Order and shape of the chunks are those of api.openai.com, with two more fields in deltas:
`reasoning_content`, and at the end of a choice `reasoning_details` (see `carry`).
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from broker.errors import InferenceError
from broker.parts import ReasoningPart
from broker.translate import carry, wire_answer
from broker.translate.errors import error_body
from broker.translate.form import COMMENT, EVENT_STREAM
from broker.translate.usage import streamed_usage
from broker.v1 import content_pb2, event_pb2, generation_pb2

DONE = b"data: [DONE]\n\n"

_json = msgspec.json.Encoder().encode

_FINISH_WORDS = {
    event_pb2.FINISH_REASON_STOP: "stop",
    event_pb2.FINISH_REASON_LENGTH: "length",
    event_pb2.FINISH_REASON_TOOL_CALLS: "tool_calls",
    event_pb2.FINISH_REASON_CONTENT_FILTER: "content_filter",
}


def finish_word(
    reason: event_pb2.FinishReason.ValueType | None, *, legacy_functions: bool
) -> str | None:
    """OpenAI's word for the end of a choice; None when the provider gave none."""
    if legacy_functions and reason == event_pb2.FINISH_REASON_TOOL_CALLS:
        return "function_call"
    # A reason that a later release has a word for: the choice has ended, and clients wait for one.
    return _FINISH_WORDS.get(reason, "stop") if reason else None


# The first delta of a choice, by what follows it.
_BEFORE_TEXT = b'{"role":"assistant","content":"","refusal":null}'
_BEFORE_OTHERS = b'{"role":"assistant","content":null,"refusal":null}'
_BEFORE_REFUSAL = b'{"role":"assistant","content":null,"refusal":""}'


class _Late:
    """Reasoning state or a hosted tool's item, to be listed at the end of its choice."""

    __slots__ = ("after_text", "after_tool_calls", "opaque", "reasoning")

    def __init__(self, after_text: int, after_tool_calls: int) -> None:
        self.after_text = after_text
        self.after_tool_calls = after_tool_calls
        self.reasoning = ReasoningPart()
        self.opaque: content_pb2.Opaque | None = None

    def carried(self) -> carry.Carried:
        part = content_pb2.Part()
        if self.opaque is not None:
            part.opaque.CopyFrom(self.opaque)
        else:
            self.reasoning.fill(part.reasoning)
        return carry.Carried(part, self.after_text, self.after_tool_calls)


class _Choice:
    """One choice of the stream: its prefixes, and how far it has come."""

    __slots__ = ("calls", "delta_head", "finished", "late", "text_head", "text_length")

    def __init__(self, head: bytes, index: int) -> None:
        self.delta_head = b'%b{"index":%d,"delta":' % (head, index)
        self.text_head = self.delta_head + b'{"content":'
        self.text_length = 0
        self.finished = False
        # Tool call index -> its item, and whether it is a custom tool's.
        self.calls: dict[int, tuple[int, bool]] = {}
        # (item, kind) -> what will be carried.
        self.late: dict[tuple[int, str], _Late] = {}

    def late_part(self, item: int, kind: str) -> _Late:
        """What is carried for an item; state of a tool call stands before that call."""
        late = self.late.get((item, kind))
        if late is None:
            before = len(self.calls)
            if kind == "reasoning":
                own = [index for index, (owner, _) in self.calls.items() if owner == item]
                before = min(own, default=before)
            late = self.late[(item, kind)] = _Late(self.text_length, before)
        return late


class ChatStream:
    """Turns one answer's events into bytes that are ready to send."""

    content_type = EVENT_STREAM
    keep_alive = COMMENT

    def __init__(
        self,
        answer_id: str,
        created: int,
        *,
        include_usage: bool = False,
        legacy_functions: bool = False,
    ) -> None:
        self._id = answer_id
        self._created = created
        self._include_usage = include_usage
        self._legacy = legacy_functions
        self._usage: wire_answer.Usage | None = None
        self._failed = False
        self._choices: dict[int, _Choice] = {}
        self._tail = b'],"usage":null}\n\n' if include_usage else b"]}\n\n"
        self._delta_tail = b',"logprobs":null,"finish_reason":null}' + self._tail
        self._text_tail = b"}" + self._delta_tail
        self._head = b""
        self._begin(event_pb2.Started())

    @classmethod
    def of(cls, answer_id: str, created: int, request: generation_pb2.Request) -> ChatStream:
        """A stream as this request asks for it."""
        generate = request.generate
        return cls(
            answer_id,
            created,
            include_usage=generate.stream_options.include_usage,
            legacy_functions=generate.legacy_functions,
        )

    def feed(self, events: Sequence[event_pb2.Event]) -> bytes:
        """The chunks of these events; empty when they show nothing yet."""
        out: list[bytes] = []
        choices = self._choices
        for event in events:
            kind = event.WhichOneof("kind")
            if kind == "text":
                delta = event.text
                text, logprobs = delta.text, delta.logprobs
                if not (text or logprobs):
                    continue
                choice = choices.get(delta.choice) or self._open(delta.choice, out)
                choice.text_length += len(text)
                out.append(choice.text_head)
                out.append(_json(text))
                if logprobs:
                    out.append(self._with_logprobs(b"content", logprobs))
                else:
                    out.append(self._text_tail)
            elif kind is not None:
                _RENDER[kind](self, getattr(event, kind), out)
        return b"".join(out)

    def finish(self) -> bytes:
        """The end of a whole answer: the usage chunk if it was asked for, and `[DONE]`."""
        if self._failed:
            return b""
        if not self._include_usage:
            return DONE
        return b'%b],"usage":%b}\n\n%b' % (self._head, _json(self._usage), DONE)

    def error(self, exc: InferenceError) -> bytes:
        """The end of an answer that failed: one error event, and no `[DONE]`."""
        self._failed = True
        return b"data: %b\n\n" % error_body(exc)

    def _begin(self, started: event_pb2.Started) -> None:
        """Make the part that all chunks begin with; it is frozen once a chunk was made."""
        if self._choices:
            return
        meta: dict[str, Any] = {
            "id": self._id,
            "object": "chat.completion.chunk",
            "created": self._created,
            "model": started.model,
        }
        if started.service_tier:
            meta["service_tier"] = started.service_tier
        meta["system_fingerprint"] = started.system_fingerprint or None
        self._head = b'data: %b,"choices":[' % _json(meta)[:-1]

    def _open(self, index: int, out: list[bytes], role: bytes = _BEFORE_TEXT) -> _Choice:
        """The choice, which begins with a chunk that says who speaks."""
        choice = self._choices.get(index)
        if choice is None:
            choice = self._choices[index] = _Choice(self._head, index)
            out.append(choice.delta_head + role + self._delta_tail)
        return choice

    def _with_logprobs(self, kind: bytes, logprobs: bytes) -> bytes:
        """What follows a delta's last value when log probabilities came with it."""
        other = b"refusal" if kind == b"content" else b"content"
        shown = b'},"logprobs":{"%b":%b,"%b":null},"finish_reason":null}'
        return shown % (kind, logprobs, other) + self._tail

    def _delta(self, choice: _Choice, delta: dict[str, Any], out: list[bytes]) -> None:
        out.append(choice.delta_head + _json(delta) + self._delta_tail)

    # --- one method per kind of event ---

    def _reasoning(self, delta: event_pb2.ReasoningDelta, out: list[bytes]) -> None:
        choice = self._open(delta.choice, out)
        choice.late_part(delta.item, "reasoning").reasoning.add(delta)
        if delta.text:
            self._delta(choice, {"reasoning_content": delta.text}, out)

    def _refusal(self, delta: event_pb2.RefusalDelta, out: list[bytes]) -> None:
        choice = self._open(delta.choice, out, _BEFORE_REFUSAL)
        refusal = choice.delta_head + b'{"refusal":' + _json(delta.text)
        if delta.logprobs:
            out.append(refusal + self._with_logprobs(b"refusal", delta.logprobs))
        else:
            out.append(refusal + self._text_tail)

    def _tool_call(self, delta: event_pb2.ToolCallDelta, out: list[bytes]) -> None:
        choice = self._open(delta.choice, out, _BEFORE_OTHERS)
        first = delta.index not in choice.calls
        if first:
            custom = delta.kind == content_pb2.TOOL_KIND_CUSTOM
            choice.calls[delta.index] = (delta.item, custom)
        elif not delta.arguments:
            return
        if self._legacy:
            # The legacy field holds one call; models with `functions` make no more.
            if delta.index == 0:
                called = {"name": delta.name} if first else {}
                self._delta(choice, {"function_call": called | {"arguments": delta.arguments}}, out)
            return
        kind, field = (
            ("custom", "input") if choice.calls[delta.index][1] else ("function", "arguments")
        )
        shown: dict[str, Any] = {"index": delta.index}
        if first:
            shown["id"] = delta.call_id
            shown["type"] = kind
            shown[kind] = {"name": delta.name, field: delta.arguments}
        else:
            shown[kind] = {field: delta.arguments}
        self._delta(choice, {"tool_calls": [shown]}, out)

    def _audio(self, delta: event_pb2.AudioDelta, out: list[bytes]) -> None:
        choice = self._open(delta.choice, out, _BEFORE_OTHERS)
        audio: dict[str, Any] = {}
        if delta.id:
            audio["id"] = delta.id
        if delta.data:
            audio["data"] = b64encode(delta.data).decode()
        if delta.transcript:
            audio["transcript"] = delta.transcript
        if delta.expires_at:
            audio["expires_at"] = delta.expires_at
        self._delta(choice, {"audio": audio}, out)

    def _image(self, delta: event_pb2.ImageDelta, out: list[bytes]) -> None:
        if not delta.partial:
            image = {"type": "image_url", "image_url": {"url": image_url(delta)}}
            self._delta(self._open(delta.choice, out), {"images": [image]}, out)

    def _blob(self, event: event_pb2.BlobEvent, out: list[bytes]) -> None:
        choice = self._open(event.choice, out)
        choice.late_part(event.item, "reasoning").reasoning.blobs.append(event.blob)

    def _opaque(self, event: event_pb2.OpaqueEvent, out: list[bytes]) -> None:
        if not event.opaque.json:
            return
        choice = self._open(event.choice, out)
        choice.late_part(event.item, "opaque").opaque = event.opaque

    def _annotation(self, event: event_pb2.AnnotationEvent, out: list[bytes]) -> None:
        choice = self._open(event.choice, out)
        self._delta(choice, {"annotations": [msgspec.Raw(event.json)]}, out)

    def _choice_finished(self, event: event_pb2.ChoiceFinished, out: list[bytes]) -> None:
        choice = self._open(event.choice, out)
        if choice.finished:
            return
        choice.finished = True
        carried = [late.carried() for late in choice.late.values()]
        if carry.worth_carrying(item.part for item in carried):
            self._delta(choice, {"reasoning_details": [carry.entry(item) for item in carried]}, out)
        word = finish_word(event.reason, legacy_functions=self._legacy)
        end = b'{},"logprobs":null,"finish_reason":%b}' % _json(word)
        out.append(choice.delta_head + end + self._tail)

    def _started(self, started: event_pb2.Started, out: list[bytes]) -> None:
        self._begin(started)

    def _completed(self, event: event_pb2.Completed, out: list[bytes]) -> None:
        if self._include_usage and event.HasField("usage"):
            self._usage = streamed_usage(event)

    def _failure(self, failure: event_pb2.Failure, out: list[bytes]) -> None:
        out.append(self.error(InferenceError.from_failure(failure)))


def image_url(delta: event_pb2.ImageDelta) -> str:
    """Where an image is, or a `data:` URL for it."""
    if not delta.HasField("image"):
        return delta.url
    image = delta.image
    return f"data:{image.media_type or 'image/png'};base64,{b64encode(image.data).decode()}"


_RENDER: dict[str, Callable[[ChatStream, Any, list[bytes]], None]] = {
    "started": ChatStream._started,
    "reasoning": ChatStream._reasoning,
    "refusal": ChatStream._refusal,
    "tool_call": ChatStream._tool_call,
    "audio": ChatStream._audio,
    "image": ChatStream._image,
    "image_facts": lambda _stream, _facts, _out: None,
    "blob": ChatStream._blob,
    "opaque": ChatStream._opaque,
    "annotation": ChatStream._annotation,
    "choice_finished": ChatStream._choice_finished,
    "completed": ChatStream._completed,
    "failed": ChatStream._failure,
}
