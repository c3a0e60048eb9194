"""What an answer is made of: its parts as they grow, and as the hub's messages have them; pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from broker.v1 import content_pb2, event_pb2


@dataclass(slots=True)
class SaidPart:
    """Text, or a refusal: pieces to join, with JSON of annotations and log probabilities."""

    pieces: list[str] = field(default_factory=list)
    logprobs: list[bytes] = field(default_factory=list)
    annotations: list[bytes] = field(default_factory=list)
    phase: str = ""


@dataclass(slots=True)
class ReasoningPart:
    """Reasoning, its summary by part number, and the provider's state that belongs to it."""

    pieces: list[str] = field(default_factory=list)
    summary: dict[int, list[str]] = field(default_factory=dict)
    blobs: list[content_pb2.Blob] = field(default_factory=list)

    def fill(self, reasoning: content_pb2.Reasoning) -> None:
        """Write it as the hub's message."""
        reasoning.text = "".join(self.pieces)
        reasoning.summary.extend("".join(self.summary[part]) for part in sorted(self.summary))
        reasoning.blobs.extend(self.blobs)

    def add(self, delta: event_pb2.ReasoningDelta) -> None:
        """Take one more piece in."""
        if delta.summary:
            self.summary.setdefault(delta.part, []).append(delta.text)
        else:
            self.pieces.append(delta.text)


@dataclass(slots=True)
class CallPart:
    """A tool call; `index` is its position among the calls of its choice."""

    index: int
    call_id: str = ""
    name: str = ""
    pieces: list[str] = field(default_factory=list)
    namespace: str = ""
    kind: content_pb2.ToolKind.ValueType = content_pb2.TOOL_KIND_UNSPECIFIED
    extra: dict[str, bytes] = field(default_factory=dict)


@dataclass(slots=True)
class AudioPart:
    """Sound: pieces of bytes and of the transcript."""

    audio_id: str = ""
    pieces: list[bytes] = field(default_factory=list)
    transcript: list[str] = field(default_factory=list)
    expires_at: int = 0
    # Of speech alone.
    media_type: str = ""


@dataclass(slots=True)
class ImagePart:
    """A finished image, inline or by address."""

    delta: event_pb2.ImageDelta


@dataclass(slots=True)
class OpaquePart:
    """An item that the hub does not interpret, in its latest state."""

    opaque: content_pb2.Opaque


Part = SaidPart | ReasoningPart | CallPart | AudioPart | ImagePart | OpaquePart


def join_json_arrays(arrays: Sequence[bytes]) -> bytes:
    """One JSON array of the elements of several."""
    if len(arrays) == 1:
        return arrays[0]
    inner = (array.strip()[1:-1].strip() for array in arrays)
    return b"[" + b",".join(piece for piece in inner if piece) + b"]"


def hub_part(kind: str, part: Part) -> content_pb2.Part:
    """A part of a fold as the hub's message has it."""
    hub = content_pb2.Part()
    _FILL[kind](hub, part)
    return hub


def _fill_text(hub: content_pb2.Part, part: SaidPart) -> None:
    hub.text.text = "".join(part.pieces)
    hub.text.phase = part.phase
    if part.logprobs:
        hub.text.logprobs = join_json_arrays(part.logprobs)
    if part.annotations:
        hub.text.annotations = b"[" + b",".join(part.annotations) + b"]"


def _fill_refusal(hub: content_pb2.Part, part: SaidPart) -> None:
    hub.refusal.text = "".join(part.pieces)


def _fill_reasoning(hub: content_pb2.Part, part: ReasoningPart) -> None:
    hub.reasoning.SetInParent()
    part.fill(hub.reasoning)


def _fill_call(hub: content_pb2.Part, part: CallPart) -> None:
    call = hub.tool_call
    call.call_id = part.call_id
    call.name = part.name
    call.arguments = "".join(part.pieces).encode()
    call.kind = part.kind or content_pb2.TOOL_KIND_FUNCTION
    call.namespace = part.namespace
    for name, data in part.extra.items():
        hub.extra[name] = data


def _fill_audio(hub: content_pb2.Part, part: AudioPart) -> None:
    # The bytes are what a reader needs; the id that a next turn refers to is the part's.
    hub.audio.inline.data = b"".join(part.pieces)
    hub.audio.transcript = "".join(part.transcript)
    hub.item_id = part.audio_id


def _fill_image(hub: content_pb2.Part, part: ImagePart) -> None:
    delta = part.delta
    if delta.HasField("image"):
        hub.image.inline.CopyFrom(delta.image)
    elif delta.error:
        hub.image.error = delta.error
    else:
        hub.image.url = delta.url
    hub.image.revised_prompt = delta.revised_prompt


def _fill_opaque(hub: content_pb2.Part, part: OpaquePart) -> None:
    hub.opaque.CopyFrom(part.opaque)


_FILL: dict[str, Callable[[content_pb2.Part, Any], None]] = {
    "text": _fill_text,
    "refusal": _fill_refusal,
    "reasoning": _fill_reasoning,
    "tool_call": _fill_call,
    "audio": _fill_audio,
    "image": _fill_image,
    "opaque": _fill_opaque,
}
