"""The legacy completions in OpenAI's format, and Mistral's and DeepSeek's that fill in the middle.

See https://platform.openai.com/docs/api-reference/completions. Log probabilities become those of
chat, which the hub has; where a token stands in the text goes with it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from broker.errors import InferenceError
from broker.v1 import event_pb2, generation_pb2
from workers.counts import count
from workers.estimate import estimate
from workers.fragments import merge
from workers.framing import SseFramer
from workers.headers import rate_limits, request_id
from workers.parameters import Losses
from workers.paths import segment
from workers.provider import Call, Decoder, Provider
from workers.sniffing import SniffingDecoder

# What servers do without that take one text at a time.
ONE_PROMPT = frozenset({"prompts", "tokens", "best_of"})
_HEADERS = {"content-type": "application/json"}
# As at OpenAI, where the caller sets no limit.
_MAX_TOKENS = 16
_BODY_LIMIT = 64 << 20
_SHOWN = 200
_DONE = b"[DONE]"
_FIELDS = (
    *("suffix", "echo", "n", "best_of", "temperature", "top_p", "presence_penalty"),
    *("frequency_penalty", "seed", "logprobs", "user"),
)
_FINISH = {
    "length": event_pb2.FINISH_REASON_LENGTH,
    "model_length": event_pb2.FINISH_REASON_LENGTH,
    "content_filter": event_pb2.FINISH_REASON_CONTENT_FILTER,
}
_NONSENSE = (AttributeError, KeyError, TypeError, ValueError)
Errors = Callable[[int, Mapping[str, str], bytes], InferenceError]


@dataclass(frozen=True, slots=True)
class OpenAiCompletions:
    """The dialect, with what a provider does differently. It has no state."""

    # Reads an error answer: status, headers, body.
    errors: Errors
    path: str = "/completions"
    # Parameters that it does not know, and of prompts "prompts" (several) and "tokens".
    without: frozenset[str] = frozenset()
    # What it calls others.
    names: Mapping[str, str] = field(default_factory=dict)
    # The models it is offered for: an expression that their names contain.
    models: str = ""

    def lacks(self, model: str) -> frozenset[str] | None:
        """What of a request is not understood; None for a model that does not complete."""
        return self.without if re.search(self.models, model) else None

    def call(self, request: generation_pb2.Request, model: str, provider: Provider) -> Call:
        """The HTTP call for a hub request."""
        complete, losses = request.complete, Losses()
        prompts: list[Any] = list(complete.prompts) or [list(one.ids) for one in complete.tokens]
        body: dict[str, Any] = {"model": model}
        body["prompt"] = prompts if len(prompts) > 1 else prompts[0]
        body["max_tokens"] = complete.max_tokens if complete.HasField("max_tokens") else _MAX_TOKENS
        for name in _FIELDS:
            if complete.HasField(name):  # type: ignore[arg-type]
                self._write(body, name, getattr(complete, name), losses)
        if complete.stop:
            self._write(body, "stop", list(complete.stop), losses)
        if complete.logit_bias:
            self._write(body, "logit_bias", _biases(complete.logit_bias), losses)
        if complete.stream:
            body["stream"] = True
            # Asked for whether or not the caller did: usage is what answers are charged by.
            if "stream_options" not in self.without:
                body["stream_options"] = {"include_usage": True}
        merge(body, complete.extra)
        losses.refuse(request.platform, model)
        path = provider.quirks.get("paths", "{call}").replace("{call}", self.path)
        path = path.replace("{model}", segment(model)) if "{" in path else path
        return Call(path, orjson.dumps(body), _HEADERS, dropped=losses.names)

    def decoder(self, request: generation_pb2.Request, headers: Mapping[str, str]) -> Decoder:
        """A decoder for the answer to this request; its first byte says if it is a stream."""
        answer = _Answer(request, headers, self.errors)
        return SniffingDecoder(lambda: _Whole(answer), lambda: _Streamed(answer))

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> InferenceError:
        """What an answer with an error status means."""
        return self.errors(status, headers, body)

    def _write(self, body: dict[str, Any], name: str, value: Any, losses: Losses) -> None:
        if name in self.without:
            losses.drop(name)
        else:
            body[self.names.get(name, name)] = value


def _biases(biases: Mapping[str, float]) -> dict[str, float]:
    return {token: int(bias) if bias.is_integer() else bias for token, bias in biases.items()}


class _Answer:
    """The state of one answer: takes objects in and gives events."""

    def __init__(
        self, request: generation_pb2.Request, headers: Mapping[str, str], errors: Errors
    ) -> None:
        self._request = request
        self._headers = headers
        self._errors = errors
        self._started = False
        self._open: set[int] = set()
        self._finished: set[int] = set()
        self._length = 0
        self._usage: event_pb2.Usage | None = None

    @property
    def is_whole(self) -> bool:
        """Whether every choice that began has ended."""
        return bool(self._finished) and not self._open

    def read(self, data: bytes, when_broken: str) -> Iterator[event_pb2.Event]:
        """The events of one object of the answer."""
        try:
            value = orjson.loads(data)
        except orjson.JSONDecodeError as exc:
            shown = data[:_SHOWN].decode("utf-8", "replace")
            raise self.error(when_broken, f"the provider sent no JSON: {shown}") from exc
        if not isinstance(value, dict) or value.get("error"):
            raise self._errors(_status(value), self._headers, data)
        try:
            yield from self._object(value)
        except _NONSENSE as exc:
            message = f"the provider's answer has an unknown form: {exc!r}"
            raise self.error("upstream_error", message) from exc

    def end(self) -> Iterator[event_pb2.Event]:
        """The end of the answer."""
        if not self.is_whole:
            raise self.error("upstream_incomplete", "the provider's answer ended early")
        usage = self._usage or estimate(self._request, self._length, 0)
        yield event_pb2.Event(completed=event_pb2.Completed(usage=usage))

    def error(self, reason: str, message: str) -> InferenceError:
        return InferenceError(
            reason, message, upstream_status=200, upstream_request_id=request_id(self._headers)
        )

    def _object(self, value: dict[str, Any]) -> Iterator[event_pb2.Event]:
        if not self._started:
            self._started = True
            yield event_pb2.Event(started=self._start(value))
        for place, choice in enumerate(value.get("choices") or ()):
            index = count(choice.get("index"))
            yield from self._choice(place if index is None else index, choice)
        usage = _usage(value.get("usage"))
        if usage is not None:
            self._usage = usage

    def _start(self, value: dict[str, Any]) -> event_pb2.Started:
        return event_pb2.Started(
            model=str(value.get("model") or ""),
            upstream_id=str(value.get("id") or ""),
            created=count(value.get("created")) or 0,
            system_fingerprint=str(value.get("system_fingerprint") or ""),
            upstream_request_id=request_id(self._headers),
            rate_limits=rate_limits(self._headers),
        )

    def _choice(self, index: int, choice: dict[str, Any]) -> Iterator[event_pb2.Event]:
        if index in self._finished:
            return
        self._open.add(index)
        text = _text(choice)
        logprobs = _logprobs(choice.get("logprobs"))
        if text or logprobs:
            self._length += len(text)
            delta = event_pb2.TextDelta(choice=index, text=text, logprobs=logprobs)
            yield event_pb2.Event(text=delta)
        word = choice.get("finish_reason")
        if word:
            self._open.discard(index)
            self._finished.add(index)
            if word == "error":
                raise self.error("upstream_error", "the provider gave the answer up")
            reason = _FINISH.get(word, event_pb2.FINISH_REASON_STOP)
            stop = choice.get("stop_reason")
            finished = event_pb2.ChoiceFinished(
                choice=index,
                reason=reason,
                upstream_reason=str(word),
                stop_sequence=stop if isinstance(stop, str) else "",
            )
            yield event_pb2.Event(choice_finished=finished)


class _Whole:
    """For an answer in one JSON body."""

    def __init__(self, answer: _Answer) -> None:
        self._answer = answer
        self._body = bytearray()

    def feed(self, data: bytes) -> Iterable[event_pb2.Event]:
        """Keeps the bytes."""
        self._body += data
        if len(self._body) > _BODY_LIMIT:
            raise self._answer.error("upstream_error", "the provider's answer is too large")
        return ()

    def close(self) -> Iterable[event_pb2.Event]:
        """All events of the answer."""
        body = bytes(self._body)
        broken = "upstream_incomplete" if body[:1] == b"{" else "upstream_error"
        return [*self._answer.read(body, broken), *self._answer.end()]


class _Streamed:
    """For an event stream."""

    def __init__(self, answer: _Answer) -> None:
        self._answer = answer
        self._framer = SseFramer()
        self._ended = False

    def feed(self, data: bytes) -> Iterator[event_pb2.Event]:
        """Events that became whole; those before a failure come before it is raised."""
        yield from self._take(self._framer.feed(data), "upstream_error")

    def close(self) -> Iterator[event_pb2.Event]:
        """The last events; a stream may end without saying so once every choice has."""
        if not self._answer.is_whole:
            yield from self._take(self._framer.close(), "upstream_incomplete")
        if not self._ended:
            self._ended = True
            yield from self._answer.end()

    def _take(
        self, events: Iterable[tuple[bytes, bytes]], when_broken: str
    ) -> Iterator[event_pb2.Event]:
        for _, data in events:
            if self._ended:
                return
            if data.startswith(_DONE):
                self._ended = True
                yield from self._answer.end()
            else:
                yield from self._answer.read(data, when_broken)


def _text(choice: dict[str, Any]) -> str:
    """The text of a choice; Mistral writes it as a message."""
    for owner in (choice, choice.get("delta"), choice.get("message")):
        if isinstance(owner, dict):
            text = owner.get("text" if owner is choice else "content")
            if isinstance(text, str):
                return text
    return ""


def _logprobs(found: Any) -> bytes:
    """The hub's array for the legacy object; empty for any other form."""
    tokens = found.get("tokens") if isinstance(found, dict) else None
    values = found.get("token_logprobs") if tokens else None
    if not (isinstance(tokens, list) and isinstance(values, list)):
        return b""
    tops, offsets = found.get("top_logprobs"), found.get("text_offset")
    entries = []
    for index, (token, value) in enumerate(zip(tokens, values, strict=False)):
        entry = _token(token, value)
        likely = tops[index] if isinstance(tops, list) and index < len(tops) else None
        entry["top_logprobs"] = (
            [_token(other, one) for other, one in likely.items()]
            if isinstance(likely, dict)
            else None
        )
        if isinstance(offsets, list) and index < len(offsets):
            entry["text_offset"] = offsets[index]
        entries.append(entry)
    return orjson.dumps(entries) if entries else b""


def _token(token: Any, value: Any) -> dict[str, Any]:
    text = str(token)
    return {"token": text, "logprob": value, "bytes": list(text.encode())}


def _usage(reported: Any) -> event_pb2.Usage | None:
    if not isinstance(reported, dict):
        return None
    prompt, made = count(reported.get("prompt_tokens")), count(reported.get("completion_tokens"))
    if prompt is None and made is None:
        return None
    details = reported.get("prompt_tokens_details")
    cached = count(details.get("cached_tokens")) if isinstance(details, dict) else None
    cached = min(cached or count(reported.get("prompt_cache_hit_tokens")) or 0, prompt or 0)
    return event_pb2.Usage(
        input_tokens=(prompt or 0) - cached, cache_read_tokens=cached, output_tokens=made or 0
    )


def _status(value: Any) -> int:
    """The status that an error in a 200 answer names; 502 where it names none."""
    error = value.get("error") if isinstance(value, dict) else None
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, int) and 400 <= code <= 599 else 502
