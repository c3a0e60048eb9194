"""The legacy completions: the body of a request, and the answer, whole and streamed.

Log probabilities travel in the hub as those of chat do; here they are the legacy object of parallel
lists. `text_offset` is the provider's own where it gives one, else it counts from the choice's
first character.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any

import msgspec
import orjson
from msgspec import UNSET, Meta, Struct, UnsetType

from broker.answer import Fold
from broker.errors import InferenceError
from broker.parts import SaidPart, join_json_arrays
from broker.translate import wire, wire_answer
from broker.translate.body import as_it_is, read_body, refuse_known, shaped, write_rest
from broker.translate.chat_stream import DONE, finish_word
from broker.translate.errors import error_body
from broker.translate.form import COMMENT, EVENT_STREAM, JSON
from broker.translate.refusals import invalid
from broker.translate.usage import chat_usage, streamed_usage
from broker.v1 import event_pb2, generation_pb2

_MOST_PROMPTS = 2048
_Token = Annotated[int, Meta(ge=0, le=2**31 - 1)]
_json = msgspec.json.Encoder().encode


class StreamOptions(Struct):
    """Only with `stream`."""

    include_usage: bool | None = None


class CompletionRequest(wire.Platform, kw_only=True):
    """A completion request."""

    model: wire.Model
    prompt: Annotated[
        str | list[Any],
        Meta(
            description="A string, an array of strings, an array of tokens, or an array of "
            "arrays of tokens."
        ),
    ]
    suffix: str | None = None
    echo: bool | None = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    best_of: Annotated[int, Meta(ge=1, le=20)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[
        Annotated[int, Meta(ge=0, le=2**53)] | None, Meta(description="Unset is 16.")
    ] = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    presence_penalty: wire.Penalty | None = None
    frequency_penalty: wire.Penalty | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    logit_bias: dict[str, Annotated[float, Meta(ge=-100, le=100)] | None] | None = None
    logprobs: Annotated[int, Meta(ge=0, le=5)] | None = None
    stop: str | Annotated[list[str], Meta(max_length=4)] | None = None
    user: str | None = None


class _Texts(Struct):
    prompt: Annotated[list[str], Meta(min_length=1, max_length=_MOST_PROMPTS)]


class _Tokens(Struct):
    prompt: list[_Token]


class _TokenLists(Struct):
    prompt: Annotated[
        list[Annotated[list[_Token], Meta(min_length=1)]], Meta(max_length=_MOST_PROMPTS)
    ]


def parse_completion(body: bytes) -> generation_pb2.Request:
    """The hub request for a body.

    Raises:
        InferenceError: invalid_request, with `param` as a dotted path into the body.
    """
    source = read_body(body)
    asked = _checked(source)
    request = generation_pb2.Request()
    complete = request.complete
    complete.model = asked.model
    prompt = asked.prompt
    if isinstance(prompt, str):
        complete.prompts.append(prompt)
    elif isinstance(prompt[0], str):
        complete.prompts.extend(prompt)
    else:
        for ids in prompt if isinstance(prompt[0], list) else [prompt]:
            complete.tokens.add().ids.extend(ids)
    write_rest(request, complete, source, _WRITERS, _DONE)
    return request


def check_complete(request: generation_pb2.Request, body: dict[str, Any]) -> None:
    """The same checks for typed messages; `body` has what is not the operation's own."""
    complete = request.complete
    if complete.prompts and complete.tokens:
        raise invalid("prompt", "Give 'prompts' or 'tokens', not both.")
    body["prompt"] = list(complete.prompts) or [list(tokens.ids) for tokens in complete.tokens]
    for field, value in complete.ListFields():
        if field.name in _PLAIN or field.name == "model":
            body[field.name] = value
    body["stop"] = list(complete.stop)
    body["logit_bias"] = dict(complete.logit_bias)
    _checked(body)
    refuse_known(complete.extra, CompletionRequest)


def _checked(source: Any) -> CompletionRequest:
    asked = shaped(source, CompletionRequest)
    if isinstance(asked.prompt, list):
        first = asked.prompt[0] if asked.prompt else ""
        shape: type[Struct] = _Texts
        if isinstance(first, list):
            shape = _TokenLists
        elif isinstance(first, int):
            shape = _Tokens
        shaped({"prompt": asked.prompt}, shape)
    if asked.stream_options is not None and not asked.stream:
        message = "The 'stream_options' parameter is only allowed when 'stream' is enabled."
        raise invalid("stream_options", message)
    best_of, wanted = asked.best_of, asked.n or 1
    if best_of is not None and best_of < wanted:
        message = f"Invalid 'best_of': expected at least 'n' ({wanted}), but got {best_of} instead."
        raise invalid("best_of", message)
    if best_of is not None and best_of > 1 and asked.stream:
        raise invalid("best_of", "The results of 'best_of' cannot be streamed.")
    return asked


def _stop(complete: Any, value: str | list[str]) -> None:
    complete.stop.extend([value] if isinstance(value, str) else value)


def _stream_options(complete: Any, value: dict[str, Any]) -> None:
    if value.get("include_usage") is not None:
        complete.include_usage = value["include_usage"]


def _logit_bias(complete: Any, value: dict[str, Any]) -> None:
    complete.logit_bias.update({k: v for k, v in value.items() if v is not None})


_PLAIN = (
    *("suffix", "echo", "n", "best_of", "stream", "max_tokens", "temperature", "top_p", "user"),
    *("presence_penalty", "frequency_penalty", "seed", "logprobs"),
)
_WRITERS: dict[str, Callable[[Any, Any], None]] = {
    **{name: as_it_is(name) for name in _PLAIN},
    "stop": _stop,
    "stream_options": _stream_options,
    "logit_bias": _logit_bias,
}
_DONE = frozenset({"model", "prompt"})


# --- answers -----------------------------------------------------------------------------------


class _Choice(Struct):
    text: str
    index: int
    logprobs: dict[str, list[Any]] | None
    finish_reason: str | None


class _Completion(Struct, kw_only=True):
    id: str
    object: str = "text_completion"
    created: int
    model: str
    choices: list[_Choice]
    system_fingerprint: str | UnsetType = UNSET
    usage: Any = UNSET


def legacy_logprobs(array: bytes, offset: int) -> dict[str, list[Any]]:
    """The legacy object for a hub array; `offset` is where its first token stands."""
    shown: dict[str, list[Any]] = {
        name: [] for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset")
    }
    for entry in orjson.loads(array):
        token = str(entry.get("token", ""))
        top = entry.get("top_logprobs")
        own = entry.get("text_offset")
        shown["tokens"].append(token)
        shown["token_logprobs"].append(entry.get("logprob"))
        likely = None if top is None else {one["token"]: one["logprob"] for one in top}
        shown["top_logprobs"].append(likely)
        shown["text_offset"].append(offset if own is None else own)
        offset += len(token)
    return shown


class CompletionAnswer:
    """Takes the events of one answer in and renders the completion."""

    content_type = JSON

    def __init__(self, answer_id: str, created: int, request: generation_pb2.Request) -> None:
        self._id = answer_id
        self._created = created
        self._fold = Fold()

    def feed(self, events: Sequence[event_pb2.Event]) -> None:
        """Take more events in. Raises `InferenceError` when the answer failed."""
        self._fold.feed(events)

    def render(self) -> bytes:
        """The body, once the answer is complete."""
        fold = self._fold
        choices: list[_Choice] = []
        for choice in fold.choices():
            said = [part for _, part in choice.parts() if isinstance(part, SaidPart)]
            text = "".join(piece for part in said for piece in part.pieces)
            arrays = [array for part in said for array in part.logprobs]
            shown = legacy_logprobs(join_json_arrays(arrays), 0) if arrays else None
            word = finish_word(choice.finish_reason, legacy_functions=False)
            choices.append(_Choice(text, choice.index, shown, word))
        whole = _Completion(
            id=self._id, created=self._created, model=fold.started.model, choices=choices
        )
        if fold.started.system_fingerprint:
            whole.system_fingerprint = fold.started.system_fingerprint
        if fold.usage is not None:
            whole.usage = chat_usage(fold.usage)
        return _json(whole)


class CompletionStream:
    """Turns one answer's events into bytes that are ready to send."""

    content_type = EVENT_STREAM
    keep_alive = COMMENT

    def __init__(self, answer_id: str, created: int, request: generation_pb2.Request) -> None:
        self._include_usage = request.complete.include_usage
        self._meta: dict[str, Any] = {
            "id": answer_id,
            "object": "text_completion",
            "created": created,
            "model": "",
        }
        self._head = self._text_head = b""
        self._tails: dict[int, bytes] = {}
        self._lengths: dict[int, int] = {}
        self._finished: set[int] = set()
        self._failed = False
        self._usage: wire_answer.Usage | None = None
        self._tail = b'],"usage":null}\n\n' if self._include_usage else b"]}\n\n"

    @classmethod
    def of(cls, answer_id: str, created: int, request: generation_pb2.Request) -> CompletionStream:
        """A stream as this request asks for it."""
        return cls(answer_id, created, request)

    def feed(self, events: Sequence[event_pb2.Event]) -> bytes:
        """The chunks of these events; empty when they show nothing yet."""
        out: list[bytes] = []
        for event in events:
            kind = event.WhichOneof("kind")
            if kind == "text":
                delta = event.text
                text, index, logprobs = delta.text, delta.choice, delta.logprobs
                length = self._lengths.get(index, 0)
                self._lengths[index] = length + len(text)
                if logprobs:
                    self._probable(index, text, legacy_logprobs(logprobs, length), out)
                elif text:
                    out.append(self._text_head or self._begun())
                    out.append(_json(text))
                    out.append(self._tails.get(index) or self._tail_of(index))
            elif kind == "refusal":
                refusal = event.refusal
                out.append(self._begun() + _json(refusal.text) + self._tail_of(refusal.choice))
            elif kind == "choice_finished":
                self._choice_finished(event.choice_finished, out)
            elif kind == "started":
                self._meta["model"] = event.started.model
                if event.started.system_fingerprint:
                    self._meta["system_fingerprint"] = event.started.system_fingerprint
            elif kind == "completed":
                self._usage = streamed_usage(event.completed)
            elif kind == "failed":
                out.append(self.error(InferenceError.from_failure(event.failed)))
        return b"".join(out)

    def finish(self) -> bytes:
        """The end of a whole answer: the usage chunk if it was asked for, and `[DONE]`."""
        if self._failed:
            return b""
        if not self._include_usage:
            return DONE
        self._begun()
        return b'%b],"usage":%b}\n\n%b' % (self._head, _json(self._usage), DONE)

    def error(self, exc: InferenceError) -> bytes:
        """The end of an answer that failed: one error event, and no `[DONE]`."""
        self._failed = True
        return b"data: %b\n\n" % error_body(exc)

    def _begun(self) -> bytes:
        """What all pieces of text begin with; frozen by the first."""
        if not self._head:
            self._head = b'data: %b,"choices":[' % _json(self._meta)[:-1]
            self._text_head = self._head + b'{"text":'
        return self._text_head

    def _tail_of(self, index: int) -> bytes:
        """What follows a text without log probabilities."""
        tail = b',"index":%d,"logprobs":null,"finish_reason":null}%b' % (index, self._tail)
        self._tails[index] = tail
        return tail

    def _probable(self, index: int, text: str, shown: Any, out: list[bytes]) -> None:
        out.append(
            b'%b%b,"index":%d,"logprobs":%b,"finish_reason":null}%b'
            % (self._begun(), _json(text), index, _json(shown), self._tail)
        )

    def _choice_finished(self, event: event_pb2.ChoiceFinished, out: list[bytes]) -> None:
        if event.choice in self._finished:
            return
        self._finished.add(event.choice)
        word = _json(finish_word(event.reason, legacy_functions=False))
        out.append(
            b'%b"","index":%d,"logprobs":null,"finish_reason":%b}%b'
            % (self._begun(), event.choice, word, self._tail)
        )
