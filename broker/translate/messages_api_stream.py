"""Renders the events of an answer as the server-sent events of the Messages API.

Order and fields are those of api.anthropic.com: one block at a time, numbered from 0, a ping behind
the first one's start, and `message_stop` behind whole answers alone. Some providers mix the pieces
of parallel tool calls, or say something before a call's arguments are whole: whatever comes waits
until they are, or until the end, since a block cannot be opened again. A text delta is the hot
path: its event is a prefix, the JSON string and a suffix.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import orjson
from msgspec import Raw

from broker.errors import InferenceError
from broker.translate import carry
from broker.translate.form import COMMENT, EVENT_STREAM
from broker.translate.messages_api_answer import (
    USAGE,
    citation,
    image_text,
    is_redacted,
    message,
    signature_of,
    stop_reason,
    usage_of,
)
from broker.translate.messages_api_errors import messages_error
from broker.v1 import content_pb2, event_pb2, generation_pb2

_json = msgspec.json.Encoder().encode
_is_json = msgspec.json.Decoder(Raw).decode

PING = b'event: ping\ndata: {"type":"ping"}\n\n'
_STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
_DELTA = (
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":%b}\n\n'
)
_TEXT = (
    b"event: content_block_delta\n"
    b'data: {"type":"content_block_delta","index":%d,"delta":{"type":"%b","%b":'
)
# Of `Completed.extra`, what stands beside the delta of the message and not in it.
_BESIDE = frozenset({"context_management"})
# Blocks of servers' tools whose input comes in a delta of its own.
_CALLS = frozenset({"server_tool_use", "mcp_tool_use"})


class _Call:
    """A tool call, and the pieces of its arguments that came."""

    __slots__ = ("begin", "pieces")

    def __init__(self, begin: event_pb2.ToolCallDelta) -> None:
        self.begin = begin
        self.pieces: list[str] = []

    def is_whole(self) -> bool:
        """Whether the arguments are a whole object, to which nothing can be added."""
        if not self.pieces or not self.pieces[-1].rstrip().endswith("}"):
            return False
        arguments = "".join(self.pieces)
        if not arguments.lstrip().startswith("{"):
            return False
        try:
            _is_json(arguments.encode())
        except msgspec.DecodeError:
            return False
        return True


class MessagesStream:
    """Turns one answer's events into bytes that are ready to send."""

    content_type = EVENT_STREAM

    def __init__(self, answer_id: str, created: int, request: generation_pb2.Request) -> None:
        self._id = answer_id
        self._started = event_pb2.Started()
        self._begun = self._ended = False
        self._out: list[bytes] = []
        self._count = 0
        # The block that is open: what it is and which item of the answer.
        self._open: tuple[str, int] | None = None
        self._head = b""
        self._blobs: list[content_pb2.Blob] = []
        self._summary = 0
        self._calls: dict[int, _Call] = {}
        self._current: _Call | None = None
        self._waiting: list[_Call] = []
        # What came while the arguments of a call were not whole.
        self._held: list[event_pb2.Event] = []
        self._finished = event_pb2.ChoiceFinished(reason=event_pb2.FINISH_REASON_STOP)
        self._completed = event_pb2.Completed()

    @classmethod
    def of(cls, answer_id: str, created: int, request: generation_pb2.Request) -> MessagesStream:
        """A stream as this request asks for it."""
        return cls(answer_id, created, request)

    @property
    def keep_alive(self) -> bytes:
        """A ping, once there is a message."""
        return PING if self._begun else COMMENT

    def feed(self, events: Sequence[event_pb2.Event]) -> bytes:
        """The events of these; empty when they show nothing yet."""
        self._take(events)
        return self._taken()

    def _take(self, events: Sequence[event_pb2.Event]) -> None:
        for event in events:
            kind = event.WhichOneof("kind")
            if kind == "text":
                delta = event.text
                if delta.text and not delta.choice:
                    if self._open != ("text", delta.item):
                        if self._hold(event):
                            continue
                        self._open_text(delta.item)
                    self._out.append(b"%b%b}}\n\n" % (self._head, _json(delta.text)))
            elif kind is not None and kind in _TAKE and not self._must_wait(kind, event):
                _TAKE[kind](self, getattr(event, kind))

    def finish(self) -> bytes:
        """The end of a whole answer."""
        if self._ended:
            return b""
        self._begin()
        self._end_calls()
        self._ended = True
        finished, extra = self._finished, self._completed.extra
        delta: dict[str, Any] = {
            "stop_reason": stop_reason(finished),
            "stop_sequence": finished.stop_sequence or None,
        }
        last: dict[str, Any] = {"type": "message_delta", "delta": delta}
        last["usage"] = usage_of(self._completed.usage, self._started.service_tier, extra)
        for name, data in extra.items():
            if name != USAGE:
                (last if name in _BESIDE else delta)[name] = Raw(data)
        self._write("message_delta", last)
        self._out.append(_STOP)
        return self._taken()

    def error(self, exc: InferenceError) -> bytes:
        """The end of an answer that failed: one error event, and no `message_stop`."""
        if self._ended:
            return b""
        self._ended = True
        return b"event: error\ndata: %b\n\n" % messages_error(exc)

    # --- writing ---

    def _taken(self) -> bytes:
        data = b"".join(self._out)
        self._out.clear()
        return data

    def _write(self, kind: str, event: dict[str, Any]) -> None:
        self._out.append(b"event: %b\ndata: %b\n\n" % (kind.encode(), _json(event)))

    def _begin(self) -> None:
        if self._begun:
            return
        self._begun = True
        started = self._started
        usage = usage_of(started.usage, started.service_tier, started.extra)
        first = message(self._id, started.model, usage)
        self._write("message_start", {"type": "message_start", "message": first})

    def _open_block(self, kind: str, item: int, block: dict[str, Any]) -> None:
        self._leave()
        self._begin()
        self._open = (kind, item)
        start = {"type": "content_block_start", "index": self._count, "content_block": block}
        self._write("content_block_start", start)
        if not self._count:
            self._out.append(PING)

    def _whole_block(self, block: dict[str, Any]) -> None:
        """A block that comes at once."""
        self._open_block("", -1, block)
        self._close()

    def _delta(self, delta: dict[str, Any]) -> None:
        self._out.append(_DELTA % (self._count, _json(delta)))

    def _leave(self) -> None:
        """Close the block that is open, to make room for another."""
        if self._open is not None:
            self._close()

    def _close(self) -> None:
        if self._open is not None and self._open[0] == "thinking" and self._blobs:
            self._delta({"type": "signature_delta", "signature": signature_of(self._blobs)})
            self._blobs = []
        stop = {"type": "content_block_stop", "index": self._count}
        self._write("content_block_stop", stop)
        self._count += 1
        self._open = self._current = None

    def _close_all(self) -> None:
        """Close what is open and show the calls that still wait."""
        self._leave()
        while self._waiting:
            self._show_call(self._waiting.pop(0))
            self._leave()

    # --- what waits for calls ---

    def _must_wait(self, kind: str, event: event_pb2.Event) -> bool:
        return kind in _BLOCKS and self._hold(event)

    def _hold(self, event: event_pb2.Event) -> bool:
        """Whether it has to wait, as arguments of a call may still come."""
        if not self._held and self._calls_are_whole():
            return False
        self._held.append(event)
        return True

    def _calls_are_whole(self) -> bool:
        current = self._current
        return not self._waiting and (current is None or current.is_whole())

    def _release(self) -> None:
        """Show what was held, in its order."""
        held, self._held = self._held, []
        self._take(held)

    def _end_calls(self) -> None:
        """No more arguments come."""
        self._close_all()
        self._release()
        self._leave()

    # --- one method per kind of event ---

    def _start(self, started: event_pb2.Started) -> None:
        self._started = started
        self._begin()

    def _open_text(self, item: int) -> None:
        self._close_all()
        self._open_block("text", item, {"type": "text", "text": ""})
        self._head = _TEXT % (self._count, b"text_delta", b"text")

    def _say(self, item: int, text: str) -> None:
        if text:
            if self._open != ("text", item):
                self._open_text(item)
            self._out.append(b"%b%b}}\n\n" % (self._head, _json(text)))

    def _refusal(self, delta: event_pb2.RefusalDelta) -> None:
        self._say(delta.item, delta.text)

    def _audio(self, delta: event_pb2.AudioDelta) -> None:
        self._say(delta.item, delta.transcript)

    def _image(self, delta: event_pb2.ImageDelta) -> None:
        if not delta.partial:
            self._say(delta.item, image_text(delta))

    def _annotation(self, event: event_pb2.AnnotationEvent) -> None:
        if self._open != ("text", event.item):
            self._open_text(event.item)
        self._delta({"type": "citations_delta", "citation": citation(event.json)})

    def _open_thinking(self, item: int) -> None:
        if self._open != ("thinking", item):
            self._close_all()
            empty = {"type": "thinking", "thinking": "", "signature": ""}
            self._open_block("thinking", item, empty)
            self._head = _TEXT % (self._count, b"thinking_delta", b"thinking")
            self._summary = -1

    def _reasoning(self, delta: event_pb2.ReasoningDelta) -> None:
        if not delta.text:
            return
        self._open_thinking(delta.item)
        text = delta.text
        if delta.summary and delta.part != self._summary:
            text = text if self._summary < 0 else f"\n\n{text}"
            self._summary = delta.part
        self._out.append(b"%b%b}}\n\n" % (self._head, _json(text)))

    def _blob(self, event: event_pb2.BlobEvent) -> None:
        if is_redacted(event.blob):
            self._close_all()
            data = event.blob.data.decode()
            self._whole_block({"type": "redacted_thinking", "data": data})
            return
        self._open_thinking(event.item)
        self._blobs.append(event.blob)

    def _opaque(self, event: event_pb2.OpaqueEvent) -> None:
        opaque = event.opaque
        if opaque.issuer != carry.ANTHROPIC or not opaque.json:
            return
        self._close_all()
        block = orjson.loads(opaque.json)
        if block.get("type") in _CALLS:
            given = orjson.dumps(block.get("input") or {}).decode()
            self._open_block("", -1, block | {"input": {}})
            self._delta({"type": "input_json_delta", "partial_json": given})
            self._close()
        else:
            self._whole_block(block)

    def _tool_call(self, delta: event_pb2.ToolCallDelta) -> None:
        call = self._calls.get(delta.index)
        if call is None:
            call = self._calls[delta.index] = _Call(delta)
            self._queue_call(call)
        if not delta.arguments:
            return
        call.pieces.append(delta.arguments)
        if call is not self._current:
            return
        self._delta({"type": "input_json_delta", "partial_json": delta.arguments})
        if (self._waiting or self._held) and call.is_whole():
            self._next_call()
            if self._calls_are_whole():
                self._release()

    def _queue_call(self, call: _Call) -> None:
        current = self._current
        if self._waiting or (current is not None and not current.is_whole()):
            self._waiting.append(call)
        else:
            self._leave()
            self._show_call(call)

    def _next_call(self) -> None:
        """Show the calls that wait, up to one whose arguments still come."""
        while self._waiting and (self._current is None or self._current.is_whole()):
            self._leave()
            self._show_call(self._waiting.pop(0))

    def _show_call(self, call: _Call) -> None:
        begin = call.begin
        block: dict[str, Any] = {"type": "tool_use", "id": begin.call_id, "name": begin.name}
        block["input"] = {}
        block |= {name: Raw(data) for name, data in begin.extra.items()}
        self._open_block("tool_use", begin.item, block)
        self._current = call
        if call.pieces:
            given = "".join(call.pieces)
            self._delta({"type": "input_json_delta", "partial_json": given})

    def _finish(self, finished: event_pb2.ChoiceFinished) -> None:
        if not finished.choice:
            self._finished = finished

    def _complete(self, completed: event_pb2.Completed) -> None:
        self._completed = completed
        self._end_calls()

    def _fail(self, failure: event_pb2.Failure) -> None:
        self._out.append(self.error(InferenceError.from_failure(failure)))


_TAKE: dict[str, Callable[[MessagesStream, Any], None]] = {
    "started": MessagesStream._start,
    "reasoning": MessagesStream._reasoning,
    "refusal": MessagesStream._refusal,
    "tool_call": MessagesStream._tool_call,
    "audio": MessagesStream._audio,
    "image": MessagesStream._image,
    "blob": MessagesStream._blob,
    "opaque": MessagesStream._opaque,
    "annotation": MessagesStream._annotation,
    "choice_finished": MessagesStream._finish,
    "completed": MessagesStream._complete,
    "failed": MessagesStream._fail,
}
# What needs a block of its own, beside text.
_BLOCKS = frozenset({"reasoning", "refusal", "audio", "image", "blob", "opaque", "annotation"})
