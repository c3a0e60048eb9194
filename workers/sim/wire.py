"""Renders an answer in the OpenAI wire format: one JSON body, or the events of a stream.

Rendered bytes hold two stamps where each call differs: CALL (its number, as 12 hex digits) and
CREATED (its time, as 10 digits). Both are control characters, which JSON never holds raw.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import orjson

from workers.sim.answer import Answer, Choice

CALL, CREATED = b"\x00", b"\x01"
_CALL_DIGITS, _CREATED_DIGITS = 12, 10
_LOGPROB = -0.25

Delta = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a stream, without its `data: ` and line ends.

    kind is role, delta, finish, usage or done; tokens is how many tokens it carries.
    """

    kind: str
    data: bytes
    tokens: int = 0


def stamped(wire: bytes, call_number: int, created: int) -> bytes:
    """Puts a call's number and time (seconds since 1970) into rendered bytes."""
    return wire.replace(CALL, b"%012x" % call_number).replace(CREATED, b"%010d" % created)


def stamped_length(wire: bytes) -> int:
    """How long rendered bytes will be once stamped."""
    return (
        len(wire)
        + (_CALL_DIGITS - 1) * wire.count(CALL)
        + (_CREATED_DIGITS - 1) * wire.count(CREATED)
    )


def error_body(message: str, type_: str, param: str | None, code: str | None) -> bytes:
    """The OpenAI error object, all four keys."""
    error = {"message": message, "type": type_, "param": param, "code": code}
    return orjson.dumps({"error": error})


def completion_body(answer: Answer) -> bytes:
    """The body of an answer that is not streamed."""
    bare = "no_finish" in answer.knobs.fault
    if answer.ask.legacy:
        return _completion(answer, bare=bare)
    fields: dict[str, Any] = {
        "choices": [
            {
                "index": index,
                "message": _message(choice),
                "logprobs": _logprobs(answer, choice.text),
                "finish_reason": None if bare else choice.finish,
            }
            for index, choice in enumerate(answer.choices)
        ]
    }
    if not answer.knobs.no_usage:
        fields["usage"] = answer.usage
    return _object("chat.completion", answer, fields)


def _completion(answer: Answer, *, bare: bool) -> bytes:
    choices = [
        {
            "text": "".join(choice.text),
            "index": index,
            "logprobs": _legacy_logprobs(answer, choice.text, 0),
            "finish_reason": None if bare else choice.finish,
        }
        for index, choice in enumerate(answer.choices)
    ]
    fields: dict[str, Any] = {"choices": choices}
    if not answer.knobs.no_usage:
        fields["usage"] = answer.usage
    return _object("text_completion", answer, fields)


def stream_events(answer: Answer) -> Iterator[Event]:
    """The events of a streamed answer, as if nothing went wrong; choices take turns."""
    for index in range(0 if answer.ask.legacy else len(answer.choices)):
        called = bool(answer.choices[index].calls)
        delta = {"role": "assistant", "content": None if called else "", "refusal": None}
        yield Event("role", _chunk(answer, index, delta))
    size = answer.knobs.chunk
    shown = [0] * len(answer.choices)
    for turn in zip_longest(*(_deltas(choice, size) for choice in answer.choices)):
        for index, step in enumerate(turn):
            if step is not None:
                delta, pieces, tokens = step
                if answer.ask.legacy:
                    logprobs = _legacy_logprobs(answer, pieces, shown[index])
                    shown[index] += sum(map(len, pieces))
                else:
                    logprobs = _logprobs(answer, pieces)
                yield Event("delta", _chunk(answer, index, delta, logprobs), tokens)
    for index, choice in enumerate(answer.choices):
        yield Event("finish", _chunk(answer, index, {}, None, choice.finish))
    if answer.ask.include_usage and not answer.knobs.no_usage:
        last = {"choices": [], "usage": answer.usage}
        yield Event("usage", _object(_chunks_of(answer), answer, last))
    yield Event("done", b"[DONE]")


def _object(kind: str, answer: Answer, fields: dict[str, Any]) -> bytes:
    named = {"object": kind, "model": answer.ask.model, "system_fingerprint": "fp_sim"}
    rest = orjson.dumps(named | fields)
    name = b"cmpl" if answer.ask.legacy else b"chatcmpl"
    return b'{"id":"%b-sim%b","created":%b,%b' % (name, CALL, CREATED, rest[1:])


def _chunks_of(answer: Answer) -> str:
    return "text_completion" if answer.ask.legacy else "chat.completion.chunk"


def _chunk(
    answer: Answer,
    index: int,
    delta: Delta,
    logprobs: dict[str, Any] | None = None,
    finish: str | None = None,
) -> bytes:
    said: dict[str, Any] = {"delta": delta}
    if answer.ask.legacy:
        said = {"text": delta.get("content", "")}
    choice = {"index": index, **said, "logprobs": logprobs, "finish_reason": finish}
    fields: dict[str, Any] = {"choices": [choice]}
    if answer.ask.include_usage and not answer.knobs.no_usage:
        fields["usage"] = None
    return _object(_chunks_of(answer), answer, fields)


def _message(choice: Choice) -> dict[str, Any]:
    message: dict[str, Any] = {
        "role": "assistant",
        "content": None if choice.calls else "".join(choice.text),
        "refusal": None,
    }
    if choice.reasoning:
        message["reasoning_content"] = "".join(choice.reasoning)
    if choice.calls:
        message["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": "".join(call.arguments)},
            }
            for call in choice.calls
        ]
    return message


def _deltas(choice: Choice, size: int) -> Iterator[tuple[Delta, tuple[str, ...], int]]:
    """Steps of one choice: the delta, the text pieces in it (for logprobs), its tokens."""
    for pieces in _by(choice.reasoning, size):
        yield {"reasoning_content": "".join(pieces)}, (), len(pieces)
    for pieces in _by(choice.text, size):
        yield {"content": "".join(pieces)}, pieces, len(pieces)
    for index, call in enumerate(choice.calls):
        function = {"name": call.name, "arguments": ""}
        opening = {"index": index, "id": call.id, "type": "function", "function": function}
        yield {"tool_calls": [opening]}, (), 0
        for pieces in _by(call.arguments, size):
            more = {"index": index, "function": {"arguments": "".join(pieces)}}
            yield {"tool_calls": [more]}, (), len(pieces)


def _by(pieces: tuple[str, ...], size: int) -> Iterator[tuple[str, ...]]:
    for at in range(0, len(pieces), size):
        yield pieces[at : at + size]


def _logprobs(answer: Answer, pieces: tuple[str, ...]) -> dict[str, Any] | None:
    if not answer.ask.logprobs or not pieces:
        return None
    return {"content": [_logprob(piece, answer.ask.top_logprobs) for piece in pieces]}


def _legacy_logprobs(answer: Answer, pieces: tuple[str, ...], offset: int) -> dict[str, Any] | None:
    """Parallel lists; `offset` is where the first piece stands in the text."""
    found = _logprobs(answer, pieces)
    if found is None:
        return None
    entries = found["content"]
    lengths = [len(piece) for piece in pieces]
    return {
        "tokens": list(pieces),
        "token_logprobs": [entry["logprob"] for entry in entries],
        "top_logprobs": [
            {one["token"]: one["logprob"] for one in entry["top_logprobs"]} for entry in entries
        ],
        "text_offset": [offset + sum(lengths[:place]) for place in range(len(lengths))],
    }


def _logprob(piece: str, top: int) -> dict[str, Any]:
    others = [
        {"token": piece + "~" * place, "logprob": _LOGPROB - place, "bytes": None}
        for place in range(top)
    ]
    return {
        "token": piece,
        "logprob": _LOGPROB,
        "bytes": list(piece.encode()),
        "top_logprobs": others,
    }
