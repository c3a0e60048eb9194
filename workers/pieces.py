"""Cuts very large events into several that say the same, so that others get their turn; pure."""

from __future__ import annotations

from collections.abc import Iterable

from broker.v1 import event_pb2

# Bytes of text that one event carries.
MAX_TEXT = 128 << 10

# What can be cut of an event, and the fields of it that are given once.
_CUT: dict[str, tuple[str, tuple[str, ...]]] = {
    "text": ("text", ("logprobs",)),
    "reasoning": ("text", ()),
    "refusal": ("text", ("logprobs",)),
    "tool_call": ("arguments", ("call_id", "name")),
    "audio": ("data", ("id", "transcript", "expires_at", "media_type")),
}


def pieces(event: event_pb2.Event) -> Iterable[event_pb2.Event]:
    """The event, or several when it is very large."""
    kind = event.WhichOneof("kind") or ""
    if event.ByteSize() <= MAX_TEXT or kind not in _CUT:
        return (event,)
    name, once = _CUT[kind]
    value = getattr(getattr(event, kind), name)
    # A character may be four bytes.
    step = MAX_TEXT if value.isascii() else MAX_TEXT // 4
    rest = event_pb2.Event()
    rest.CopyFrom(event)
    for field in (name, *once):
        getattr(rest, kind).ClearField(field)
    cut = []
    for start in range(0, len(value), step):
        piece = event_pb2.Event()
        piece.CopyFrom(rest if start else event)
        setattr(getattr(piece, kind), name, value[start : start + step])
        cut.append(piece)
    return cut or (event,)
