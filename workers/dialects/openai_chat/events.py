"""Turns the chunks of one answer into hub events, keeping what has to be known to the end."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

import msgspec
import orjson

from broker.errors import InferenceError
from broker.v1 import event_pb2, generation_pb2
from workers.counts import count
from workers.dialects.openai_chat.errors import error_in_answer
from workers.dialects.openai_chat.extras import Details, citations, token_logprobs
from workers.dialects.openai_chat.toolcalls import ToolCalls
from workers.dialects.openai_chat.usage import usage_of
from workers.dialects.openai_chat.wire import Audio, Choice, Chunk, Message, decode_logprobs
from workers.estimate import estimate
from workers.headers import rate_limits, request_id

# The provider's word for why it stopped. A word that is not listed means the model stopped by
# itself; the word is kept beside it.
FINISH: dict[str, event_pb2.FinishReason.ValueType] = {
    "content_filter": event_pb2.FINISH_REASON_CONTENT_FILTER,
    "end_turn": event_pb2.FINISH_REASON_STOP,
    "eos": event_pb2.FINISH_REASON_STOP,
    "eos_token": event_pb2.FINISH_REASON_STOP,
    "function_call": event_pb2.FINISH_REASON_TOOL_CALLS,
    "length": event_pb2.FINISH_REASON_LENGTH,
    "max_tokens": event_pb2.FINISH_REASON_LENGTH,
    "model_length": event_pb2.FINISH_REASON_LENGTH,
    "safety": event_pb2.FINISH_REASON_CONTENT_FILTER,
    "stop": event_pb2.FINISH_REASON_STOP,
    "stop_sequence": event_pb2.FINISH_REASON_STOP,
    "tool_calls": event_pb2.FINISH_REASON_TOOL_CALLS,
    "tool_use": event_pb2.FINISH_REASON_TOOL_CALLS,
}
# Words that stand where the finish reason does and mean that there is no answer.
FAILED = {
    "error": "upstream_error",
    "insufficient_system_resource": "upstream_overloaded",
}
# Other words for tiers that OpenAI has names for.
_TIERS = {"on_demand": "default"}
# OpenAI's own limit of `n`.
MOST_CHOICES = 128
_NULL = b"null"
_Events = list[event_pb2.Event]


class _Answer:
    """One choice so far. Items are numbered in the order in which they begin."""

    __slots__ = (
        *("begun", "calls", "details", "finish", "index", "items", "message", "reasoning", "texts"),
    )

    def __init__(self, index: int, seed: str) -> None:
        self.index = index
        # Something was said.
        self.begun = False
        self.finish = ""
        self.items = 0
        self.message = -1
        self.reasoning = -1
        self.calls = ToolCalls(index, seed)
        self.details = Details()
        # Kept only where sources are cited.
        self.texts: list[str] = []

    def message_item(self) -> int:
        if self.message < 0:
            self.message = self.items
            self.items += 1
        return self.message

    def reasoning_item(self) -> int:
        if self.reasoning < 0:
            self.reasoning = self.items
            self.items += 1
        return self.reasoning


class AnswerEvents:
    """The events of one answer, chunk by chunk; a whole answer is a single chunk."""

    def __init__(
        self, request: generation_pb2.Request, headers: Mapping[str, str], *, streamed: bool
    ) -> None:
        self._request = request
        self._headers = headers
        self._streamed = streamed
        # Nothing more is to come, although the stream goes on.
        self.complete = False
        self._started = False
        self._upstream_id = ""
        self._answers: dict[int, _Answer] = {}
        self._names_reasons = False
        self._usage: Any = None
        self._sources: Any = None
        self._output_chars = 0
        self._reasoning_chars = 0

    @property
    def choices(self) -> int:
        """How many choices have begun."""
        return len(self._answers)

    @property
    def all_begun(self) -> bool:
        """As many choices have begun as were asked for."""
        return len(self._answers) >= max(1, self._request.generate.n)

    @property
    def finished(self) -> bool:
        """Every choice that has begun has its finish reason, and one has."""
        answers = self._answers.values()
        return bool(answers) and all(answer.finish for answer in answers)

    @property
    def counted(self) -> bool:
        """Tokens were counted, by a server that has no field for finish reasons, not even null."""
        return bool(self._usage) and bool(self._answers) and not self._names_reasons

    def add(self, chunk: Chunk, events: _Events) -> None:
        """Appends the events of one chunk; raises the error that it carries."""
        if chunk.error:
            raise error_in_answer({"error": chunk.error}, self._headers)
        usage = chunk.usage
        if chunk.x_groq is not None:
            usage = usage or self._vendor_usage(chunk.x_groq)
        if usage:
            # Cumulative where it comes with every chunk: the last one counts.
            self._usage = usage
        if chunk.search_results or chunk.citations:
            self._sources = chunk.search_results or chunk.citations
        if not self._started and (chunk.choices or (chunk.id and chunk.model)):
            # A filter report can come first, with no id, no model and no choice.
            events.append(self._start(chunk))
        for choice in chunk.choices or ():
            self._add_choice(choice, events)
        # Usage beside or behind the last finish reason is the last thing that a provider says.
        self.complete = bool(usage) and self.finished and self.all_begun

    def add_text(self, index: int, text: str, events: _Events) -> bool:
        """Appends the event of a piece of text; False when it needs more than that."""
        answer = self._answers.get(index)
        if answer is None or answer.message < 0 or self._sources or not text:
            return False
        self._output_chars += len(text)
        event = event_pb2.Event()
        delta = event.text
        delta.text = text
        # Zero is what they are anyway.
        if index:
            delta.choice = index
        if answer.message:
            delta.item = answer.message
        events.append(event)
        return True

    def finish(self, events: _Events) -> None:
        """Appends the last events: calls completed, finish reasons, usage.

        Only a whole JSON answer, or a stream that its server counted and called done, may come here
        unfinished: some servers name no reason, and the answer shows what it was.
        """
        for index in sorted(self._answers):
            answer = self._answers[index]
            events += answer.calls.finish()
            if answer.details:
                events += answer.details.events(index, answer.reasoning_item())
            if self._sources:
                for citation in citations(self._sources, "".join(answer.texts)):
                    _annotate(answer, citation, events)
            event = event_pb2.Event()
            finished = event.choice_finished
            finished.choice = index
            word = answer.finish or ("tool_calls" if len(answer.calls) else "stop")
            finished.reason = FINISH.get(word, event_pb2.FINISH_REASON_STOP)
            finished.upstream_reason = answer.finish
            events.append(event)
        usage = usage_of(self._usage)
        if usage is None:
            usage = estimate(self._request, self._output_chars, self._reasoning_chars)
        events.append(event_pb2.Event(completed=event_pb2.Completed(usage=usage)))

    def _vendor_usage(self, extra: Any) -> Any:
        if not isinstance(extra, dict):
            return None
        if extra.get("error"):
            raise error_in_answer({"error": extra["error"]}, self._headers)
        return extra.get("usage")

    def _start(self, chunk: Chunk) -> event_pb2.Event:
        self._started = True
        self._upstream_id = str(chunk.id or "")
        event = event_pb2.Event()
        started = event.started
        started.model = chunk.model or ""
        started.upstream_id = self._upstream_id
        started.created = count(chunk.created) or 0
        if isinstance(chunk.system_fingerprint, str):
            started.system_fingerprint = chunk.system_fingerprint
        if isinstance(chunk.service_tier, str):
            started.service_tier = _TIERS.get(chunk.service_tier, chunk.service_tier)
        started.upstream_request_id = request_id(self._headers)
        started.rate_limits.update(rate_limits(self._headers))
        return event

    def _add_choice(self, choice: Choice, events: _Events) -> None:
        index = choice.index or 0
        answer = self._answers.get(index)
        if answer is None:
            if not 0 <= index < MOST_CHOICES:
                raise InferenceError("upstream_error", f"the provider sent a choice {index}")
            # The turn count tells apart the answers of a server that gives them no id.
            seed = f"{self._upstream_id}:{len(self._request.generate.messages)}"
            answer = self._answers[index] = _Answer(index, seed)
        # Some servers send both: in a stream the message so far, in a whole answer an empty delta.
        # Some have one name for either.
        if not self._streamed:
            message = choice.message or choice.delta
        elif choice.delta is None and not answer.begun:
            message = choice.message
        else:
            message = choice.delta
        answer.begun = answer.begun or message is not None
        text_logprobs = refusal_logprobs = b""
        if len(choice.logprobs) > len(_NULL):
            text_logprobs, refusal_logprobs = _logprobs(choice.logprobs)
        if message is not None:
            if message.reasoning_details:
                answer.details.add(message.reasoning_details)
            reasoning = (
                message.reasoning_content
                or message.reasoning
                or message.reasoning_text
                or message.thinking
            )
            if reasoning and isinstance(reasoning, str):
                self._add_reasoning(answer, reasoning, events)
            content = message.content
            if content or text_logprobs:
                if isinstance(content, list):
                    self._add_parts(answer, content, text_logprobs, events)
                else:
                    self._add_text(answer, content or "", text_logprobs, events)
            if message.refusal or refusal_logprobs:
                self._add_refusal(answer, message.refusal or "", refusal_logprobs, events)
            self._add_rest(answer, message, events)
        if choice.finish_reason is msgspec.UNSET:
            return
        self._names_reasons = True
        if choice.finish_reason and not answer.finish:
            # Repeated by some servers, so it is told at the end; the first one counts.
            if choice.finish_reason in FAILED:
                raise InferenceError(
                    FAILED[choice.finish_reason],
                    f"the provider ended the answer with {choice.finish_reason!r}",
                    upstream_request_id=request_id(self._headers),
                )
            answer.finish = choice.finish_reason

    def _add_text(self, answer: _Answer, text: str, logprobs: bytes, events: _Events) -> None:
        self._output_chars += len(text)
        if self._sources:
            answer.texts.append(text)
        event = event_pb2.Event()
        delta = event.text
        delta.choice = answer.index
        delta.item = answer.message_item()
        delta.text = text
        if logprobs:
            delta.logprobs = logprobs
        events.append(event)

    def _add_reasoning(self, answer: _Answer, text: str, events: _Events) -> None:
        self._reasoning_chars += len(text)
        event = event_pb2.Event()
        delta = event.reasoning
        delta.choice = answer.index
        delta.item = answer.reasoning_item()
        delta.text = text
        events.append(event)

    def _add_parts(
        self, answer: _Answer, parts: list[Any], logprobs: bytes, events: _Events
    ) -> None:
        """Content as a list: texts, and thinking that is a list of texts in its turn."""
        for part in parts:
            if isinstance(part, str):
                self._add_text(answer, part, logprobs, events)
            elif isinstance(part, dict):
                thinking = part.get("thinking")
                if isinstance(thinking, list):
                    inner = (t.get("text") for t in thinking if isinstance(t, dict))
                    thinking = "".join(text for text in inner if isinstance(text, str))
                if isinstance(thinking, str) and thinking:
                    self._add_reasoning(answer, thinking, events)
                text = part.get("text")
                if isinstance(text, str) and text:
                    self._add_text(answer, text, logprobs, events)

    def _add_refusal(self, answer: _Answer, text: str, logprobs: bytes, events: _Events) -> None:
        self._output_chars += len(text)
        event = event_pb2.Event()
        delta = event.refusal
        delta.choice = answer.index
        delta.item = answer.message_item()
        delta.text = text
        if logprobs:
            delta.logprobs = logprobs
        events.append(event)

    def _add_rest(self, answer: _Answer, message: Message, events: _Events) -> None:
        """What few messages have: tool calls, audio, annotations."""
        for call in message.tool_calls or ():
            self._add_call(answer, answer.calls.add(call, answer.items), events)
        function = message.function_call
        # Some servers send an empty one with every message.
        if function is not None and (function.name or function.arguments):
            self._add_call(answer, answer.calls.add_legacy(function, answer.items), events)
        audio = message.audio
        if audio is not None and (audio.id or audio.data or audio.transcript or audio.expires_at):
            self._add_audio(answer, audio, events)
        if isinstance(message.annotations, list):
            for annotation in message.annotations:
                _annotate(answer, orjson.dumps(annotation), events)

    def _add_call(self, answer: _Answer, event: event_pb2.Event | None, events: _Events) -> None:
        if event is not None:
            call = event.tool_call
            answer.items = max(answer.items, call.item + 1)
            self._output_chars += len(call.name) + len(call.arguments)
            events.append(event)

    def _add_audio(self, answer: _Answer, audio: Audio, events: _Events) -> None:
        event = event_pb2.Event()
        delta = event.audio
        delta.choice = answer.index
        delta.item = answer.message_item()
        delta.id = audio.id or ""
        try:
            delta.data = base64.b64decode(audio.data or "")
        except binascii.Error as exc:
            raise InferenceError("upstream_error", f"the provider sent bad audio: {exc}") from exc
        delta.transcript = audio.transcript or ""
        delta.expires_at = count(audio.expires_at) or 0
        events.append(event)


def _annotate(answer: _Answer, annotation: bytes, events: _Events) -> None:
    event = event_pb2.Event()
    event.annotation.choice = answer.index
    event.annotation.item = answer.message_item()
    event.annotation.json = annotation
    events.append(event)


def _logprobs(raw: msgspec.Raw) -> tuple[bytes, bytes]:
    """JSON arrays for text and refusal; empty for a form that is not OpenAI's."""
    try:
        logprobs = decode_logprobs(raw)
    except msgspec.ValidationError:
        return b"", b""
    if logprobs.tokens:
        return token_logprobs(bytes(raw)), b""
    return _array(logprobs.content), _array(logprobs.refusal)


def _array(raw: msgspec.Raw) -> bytes:
    value = bytes(raw)
    return value if value.startswith(b"[") and value != b"[]" else b""
