"""Renders a whole answer as the body of a chat completion that was not streamed."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import UNSET, Raw

from broker.answer import ChoiceFold, Fold
from broker.parts import (
    AudioPart,
    CallPart,
    ImagePart,
    OpaquePart,
    ReasoningPart,
    SaidPart,
    join_json_arrays,
)
from broker.translate import carry, wire_answer
from broker.translate.chat_stream import ChatStream, finish_word, image_url
from broker.translate.form import JSON
from broker.translate.usage import chat_usage
from broker.v1 import content_pb2, event_pb2, generation_pb2

__all__ = ["ChatAnswer", "ChatStream"]

_json = msgspec.json.Encoder().encode


class ChatAnswer:
    """Takes the events of one answer in and renders the `chat.completion` object."""

    content_type = JSON

    def __init__(self, answer_id: str, created: int, request: generation_pb2.Request) -> None:
        self.fold = Fold()
        self._id = answer_id
        self._created = created
        self._legacy = request.generate.legacy_functions

    def feed(self, events: Sequence[event_pb2.Event]) -> None:
        """Take more events in.

        Raises:
            InferenceError: the answer failed.
        """
        self.fold.feed(events)

    def render(self) -> bytes:
        """The body, once the answer is complete."""
        fold = self.fold
        started = fold.started
        completion = wire_answer.ChatCompletion(
            id=self._id,
            created=self._created,
            model=started.model,
            choices=[self._choice(choice) for choice in fold.choices()],
            system_fingerprint=started.system_fingerprint or None,
        )
        if fold.usage is not None:
            completion.usage = chat_usage(fold.usage)
        if started.service_tier:
            completion.service_tier = started.service_tier
        return _json(completion)

    def _choice(self, choice: ChoiceFold) -> wire_answer.Choice:
        reader = _Reader(legacy=self._legacy)
        for kind, part in choice.parts():
            getattr(reader, kind)(part)
        return wire_answer.Choice(
            choice.index,
            reader.message(),
            reader.probabilities(),
            finish_word(choice.finish_reason, legacy_functions=self._legacy),
        )


class _Reader:
    """Collects the parts of one choice into a message; one method per kind of part."""

    def __init__(self, *, legacy: bool) -> None:
        self._legacy = legacy
        self._message = wire_answer.AssistantMessage()
        self._texts: list[str] = []
        self._refusals: list[str] = []
        self._thoughts: list[str] = []
        self._calls: list[wire_answer.FunctionToolCall | wire_answer.CustomToolCall] = []
        self._called = 0
        self._annotations: list[Raw] = []
        self._logprobs: dict[str, list[bytes]] = {"content": [], "refusal": []}
        self._carried: list[carry.Carried] = []

    def text(self, part: SaidPart) -> None:
        self._texts.extend(part.pieces)
        self._logprobs["content"].extend(part.logprobs)
        self._annotations.extend(map(Raw, part.annotations))

    def refusal(self, part: SaidPart) -> None:
        self._refusals.extend(part.pieces)
        self._logprobs["refusal"].extend(part.logprobs)

    def reasoning(self, part: ReasoningPart) -> None:
        self._thoughts.extend(part.pieces)
        for number in sorted(part.summary):
            self._thoughts.extend(part.summary[number])
        hub = content_pb2.Part()
        part.fill(hub.reasoning)
        self._carry(hub)

    def opaque(self, part: OpaquePart) -> None:
        self._carry(content_pb2.Part(opaque=part.opaque))

    def tool_call(self, part: CallPart) -> None:
        self._called += 1
        text = "".join(part.pieces)
        if self._legacy:
            # The legacy field holds one call; models with `functions` make no more.
            if self._called == 1:
                self._message.function_call = wire_answer.Function(part.name, text)
        elif part.kind == content_pb2.TOOL_KIND_CUSTOM:
            custom = wire_answer.Custom(part.name, text)
            self._calls.append(wire_answer.CustomToolCall(id=part.call_id, custom=custom))
        else:
            function = wire_answer.Function(part.name, text)
            self._calls.append(wire_answer.FunctionToolCall(id=part.call_id, function=function))

    def audio(self, part: AudioPart) -> None:
        data = b64encode(b"".join(part.pieces)).decode()
        transcript = "".join(part.transcript)
        self._message.audio = wire_answer.AnswerAudio(
            part.audio_id, data, part.expires_at, transcript
        )

    def image(self, part: ImagePart) -> None:
        image = wire_answer.AnswerImage(image_url=wire_answer.AnswerImageUrl(image_url(part.delta)))
        if self._message.images is UNSET:
            self._message.images = []
        self._message.images.append(image)

    def _carry(self, part: content_pb2.Part) -> None:
        said = sum(map(len, self._texts))
        self._carried.append(carry.Carried(part, said, self._called))

    def message(self) -> wire_answer.AssistantMessage:
        """What the model said, all in all."""
        message = self._message
        text = "".join(self._texts)
        # Null where something else is the answer, as clients tell the two apart by it.
        if text or not (self._called or self._refusals or message.audio is not UNSET):
            message.content = text
        if self._refusals:
            message.refusal = "".join(self._refusals)
        if self._calls:
            message.tool_calls = self._calls
        if self._thoughts:
            message.reasoning_content = "".join(self._thoughts)
        if carry.worth_carrying(item.part for item in self._carried):
            message.reasoning_details = [carry.entry(item) for item in self._carried]
        message.annotations = self._annotations
        return message

    def probabilities(self) -> wire_answer.Logprobs | None:
        """The log probabilities, or None when there are none."""
        shown: dict[str, Any] = {
            kind: Raw(join_json_arrays(arrays)) for kind, arrays in self._logprobs.items() if arrays
        }
        return wire_answer.Logprobs(**shown) if shown else None
