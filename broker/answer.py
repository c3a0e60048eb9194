"""Folds the events of an answer into the whole: parts in order, per choice; pure.

`Fold` is what a unary answer is made from, over gRPC and HTTP, and what is kept of a response.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from broker.errors import InferenceError
from broker.parts import (
    AudioPart,
    CallPart,
    ImagePart,
    OpaquePart,
    Part,
    ReasoningPart,
    SaidPart,
    hub_part,
)
from broker.v1 import content_pb2, event_pb2, inference_service_pb2, operations_pb2

# Why an answer is incomplete, by how a choice finished.
INCOMPLETE_REASONS = {
    event_pb2.FINISH_REASON_LENGTH: "max_output_tokens",
    event_pb2.FINISH_REASON_CONTENT_FILTER: "content_filter",
}


class ChoiceFold:
    """One choice: its parts by (item, kind, number), and how it ended."""

    __slots__ = ("_parts", "finish_reason", "index", "stop_sequence", "upstream_reason")

    def __init__(self, index: int) -> None:
        self.index = index
        self.finish_reason: event_pb2.FinishReason.ValueType | None = None
        self.upstream_reason = ""
        self.stop_sequence = ""
        self._parts: dict[tuple[int, str, int], Part] = {}

    def get(self, item: int, kind: str, make: Callable[[], Any], number: int = 0) -> Any:
        """The part at this place, made when it is new."""
        key = (item, kind, number)
        part = self._parts.get(key)
        if part is None:
            part = self._parts[key] = make()
        return part

    def put(self, item: int, kind: str, number: int, part: Part) -> None:
        """Set the part at this place, whatever was there."""
        self._parts[(item, kind, number)] = part

    def parts(self) -> list[tuple[str, Part]]:
        """(kind, part) in order of items; a blob of a tool call comes before the call."""
        if len(self._parts) > 1:
            ordered = sorted(self._parts, key=lambda key: (key[0], key[1] != "reasoning"))
            return [(key[1], self._parts[key]) for key in ordered]
        return [(key[1], part) for key, part in self._parts.items()]


class Fold:
    """Takes the events of one answer, in order, and holds what they add up to.

    With `pictures` it is the answer to an image request, which has no choices.
    """

    def __init__(self, *, pictures: bool = False) -> None:
        self._only_pictures = pictures
        self.started = event_pb2.Started()
        self.usage: event_pb2.Usage | None = None
        self.extra: dict[str, bytes] = {}
        self.token_count: event_pb2.TokenCount | None = None
        self.vectors: list[operations_pb2.Vectors] = []
        self.moderations: list[operations_pb2.Moderation] = []
        self.ranked: list[operations_pb2.Ranked] = []
        self.image_facts: operations_pb2.ImageFacts | None = None
        self.transcript: operations_pb2.Transcript | None = None
        self.speech: AudioPart | None = None
        self._choices: dict[int, ChoiceFold] = {}

    def feed(self, events: Sequence[event_pb2.Event]) -> None:
        """Take more events in.

        Raises:
            InferenceError: the answer failed.
        """
        for event in events:
            kind = event.WhichOneof("kind")
            if kind is not None:
                _TAKE[kind](self, getattr(event, kind))

    def pictures(self) -> list[event_pb2.ImageDelta]:
        """The finished pictures, in order."""
        parts = (part for choice in self.choices() for _, part in choice.parts())
        return [part.delta for part in parts if isinstance(part, ImagePart)]

    def choices(self) -> list[ChoiceFold]:
        """The choices by index."""
        return [self._choices[index] for index in sorted(self._choices)]

    def choice(self, index: int) -> ChoiceFold:
        """The choice with this index, made when it is new."""
        choice = self._choices.get(index)
        if choice is None:
            choice = self._choices[index] = ChoiceFold(index)
        return choice

    def answer(self, answer_id: str, created: int) -> inference_service_pb2.Answer:
        """The whole as the public gRPC answer; `created` in Unix seconds."""
        started = self.started
        answer = inference_service_pb2.Answer(
            id=answer_id,
            created=created,
            model=started.model,
            provider=started.provider,
            system_fingerprint=started.system_fingerprint,
            service_tier=started.service_tier,
            upstream_id=started.upstream_id,
            dropped_params=started.dropped_params,
            vectors=sorted(self.vectors, key=lambda vectors: vectors.first),
            moderations=sorted(self.moderations, key=lambda judged: judged.index),
            ranked=self.ranked,
        )
        if self.usage is not None:
            answer.usage.CopyFrom(self.usage)
        if self.token_count is not None:
            answer.token_count.CopyFrom(self.token_count)
        if self.image_facts is not None:
            answer.image_facts.CopyFrom(self.image_facts)
        if self.transcript is not None:
            answer.transcript.CopyFrom(self.transcript)
        if self.speech is not None:
            answer.speech.media_type = self.speech.media_type
            answer.speech.data = b"".join(self.speech.pieces)
        if self._only_pictures:
            answer.images.extend(self.pictures())
            return answer
        for choice in self.choices():
            hub = answer.choices.add()
            hub.index = choice.index
            hub.upstream_reason = choice.upstream_reason
            hub.stop_sequence = choice.stop_sequence
            if choice.finish_reason is not None:
                hub.finish_reason = choice.finish_reason
            hub.message.role = content_pb2.ROLE_ASSISTANT
            hub.message.parts.extend(hub_part(kind, part) for kind, part in choice.parts())
        return answer


def _started(fold: Fold, started: event_pb2.Started) -> None:
    fold.started = started


def _text(fold: Fold, delta: event_pb2.TextDelta) -> None:
    part = fold.choice(delta.choice).get(delta.item, "text", SaidPart)
    part.pieces.append(delta.text)
    if delta.phase:
        part.phase = delta.phase
    if delta.logprobs:
        part.logprobs.append(delta.logprobs)


def _refusal(fold: Fold, delta: event_pb2.RefusalDelta) -> None:
    part = fold.choice(delta.choice).get(delta.item, "refusal", SaidPart)
    part.pieces.append(delta.text)
    if delta.logprobs:
        part.logprobs.append(delta.logprobs)


def _reasoning(fold: Fold, delta: event_pb2.ReasoningDelta) -> None:
    fold.choice(delta.choice).get(delta.item, "reasoning", ReasoningPart).add(delta)


def _tool_call(fold: Fold, delta: event_pb2.ToolCallDelta) -> None:
    part = fold.choice(delta.choice).get(
        delta.item, "tool_call", lambda: CallPart(delta.index), delta.index
    )
    part.call_id = delta.call_id or part.call_id
    part.name = delta.name or part.name
    part.kind = delta.kind or part.kind
    part.namespace = delta.namespace or part.namespace
    part.extra.update(delta.extra)
    if delta.arguments:
        part.pieces.append(delta.arguments)


def _audio(fold: Fold, delta: event_pb2.AudioDelta) -> None:
    if delta.media_type and fold.speech is None:
        fold.speech = AudioPart(media_type=delta.media_type)
    if fold.speech is not None:
        fold.speech.pieces.append(delta.data)
        return
    part = fold.choice(delta.choice).get(delta.item, "audio", AudioPart)
    part.audio_id = delta.id or part.audio_id
    part.expires_at = delta.expires_at or part.expires_at
    part.pieces.append(delta.data)
    part.transcript.append(delta.transcript)


def _image(fold: Fold, delta: event_pb2.ImageDelta) -> None:
    if not delta.partial:
        choice = fold.choice(delta.choice)
        choice.put(delta.item, "image", delta.partial_index, ImagePart(delta))


def _image_facts(fold: Fold, facts: operations_pb2.ImageFacts) -> None:
    fold.image_facts = facts


def _blob(fold: Fold, event: event_pb2.BlobEvent) -> None:
    part = fold.choice(event.choice).get(event.item, "reasoning", ReasoningPart)
    blob = content_pb2.Blob(provider=fold.started.provider)
    blob.MergeFrom(event.blob)
    part.blobs.append(blob)


def _opaque(fold: Fold, event: event_pb2.OpaqueEvent) -> None:
    # Each step that changes an item shows the whole of it; the last one is how it ended.
    if event.opaque.json:
        fold.choice(event.choice).put(event.item, "opaque", 0, OpaquePart(event.opaque))


def _annotation(fold: Fold, event: event_pb2.AnnotationEvent) -> None:
    part = fold.choice(event.choice).get(event.item, "text", SaidPart)
    part.annotations.append(event.json)


def _choice_finished(fold: Fold, event: event_pb2.ChoiceFinished) -> None:
    choice = fold.choice(event.choice)
    choice.finish_reason = event.reason
    choice.upstream_reason = event.upstream_reason
    choice.stop_sequence = event.stop_sequence


def _vectors(fold: Fold, vectors: operations_pb2.Vectors) -> None:
    fold.vectors.append(vectors)


def _moderation(fold: Fold, judged: operations_pb2.Moderation) -> None:
    fold.moderations.append(judged)


def _ranked(fold: Fold, place: operations_pb2.Ranked) -> None:
    fold.ranked.append(place)


def _transcript(fold: Fold, transcript: operations_pb2.Transcript) -> None:
    fold.transcript = transcript


def _transcript_segment(_fold: Fold, _segment: operations_pb2.TranscriptSegment) -> None:
    """It is in the transcript, too."""


def _completed(fold: Fold, event: event_pb2.Completed) -> None:
    if event.HasField("usage"):
        fold.usage = event.usage
    fold.extra = dict(event.extra)
    # What is known only at the end takes the place of what was said at the beginning.
    if event.model or event.service_tier:
        told = event_pb2.Started(model=event.model, service_tier=event.service_tier)
        started = event_pb2.Started()
        started.CopyFrom(fold.started)
        started.MergeFrom(told)
        fold.started = started


def _token_count(fold: Fold, count: event_pb2.TokenCount) -> None:
    fold.token_count = count


def _failed(_fold: Fold, failure: event_pb2.Failure) -> None:
    raise InferenceError.from_failure(failure)


_TAKE: dict[str, Callable[[Fold, Any], None]] = {
    "started": _started,
    "text": _text,
    "reasoning": _reasoning,
    "refusal": _refusal,
    "tool_call": _tool_call,
    "audio": _audio,
    "image": _image,
    "image_facts": _image_facts,
    "blob": _blob,
    "opaque": _opaque,
    "annotation": _annotation,
    "choice_finished": _choice_finished,
    "vectors": _vectors,
    "moderation": _moderation,
    "ranked": _ranked,
    "transcript": _transcript,
    "transcript_segment": _transcript_segment,
    "token_count": _token_count,
    "completed": _completed,
    "failed": _failed,
}
