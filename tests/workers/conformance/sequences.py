"""Other chunks in which a server of the chat format may say the same answer."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

Chunk = dict[str, Any]
Change = Callable[[list[Chunk]], Iterator[Chunk]]
_NOTHING: tuple[Any, ...] = ({}, None)
_TEXTS = ("content", "reasoning_content", "reasoning", "refusal")


def chunks_of(answer: bytes) -> list[Chunk]:
    """The chunks of a stream, without its end mark."""
    lines = (line[5:].strip() for line in answer.decode().splitlines() if line.startswith("data:"))
    return [json.loads(line) for line in lines if line and line != "[DONE]"]


def stream_of(chunks: Iterator[Chunk] | list[Chunk], end: str = "data: [DONE]\n\n") -> bytes:
    """The stream of some chunks."""
    return "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks).encode() + end.encode()


def _about(chunk: Chunk) -> Chunk:
    return {key: chunk[key] for key in ("id", "object", "created", "model") if key in chunk}


def _deltas(chunk: Chunk) -> Iterator[Chunk]:
    for choice in chunk.get("choices") or ():
        if isinstance(choice.get("delta"), dict):
            yield choice["delta"]


def no_choices_between(chunks: list[Chunk]) -> Iterator[Chunk]:
    """A filter's report, a keep-alive."""
    for chunk in chunks:
        yield {**_about(chunk), "choices": []}
        yield chunk
        yield {**_about(chunk), "choices": None}


def nothing_said_between(chunks: list[Chunk]) -> Iterator[Chunk]:
    """Deltas that are empty, or null."""
    for chunk in chunks:
        for nothing in _NOTHING:
            quiet = [
                {"index": choice.get("index", 0), "delta": nothing}
                for choice in chunk.get("choices") or ()
            ]
            yield {**_about(chunk), "choices": quiet}
        yield chunk


def all_fields_everywhere(chunks: list[Chunk]) -> Iterator[Chunk]:
    """The role with every delta, and all that is not said as null or empty."""
    for chunk in chunks:
        for delta in _deltas(chunk):
            delta["role"] = "assistant"
            for name in (*_TEXTS, "function_call", "audio"):
                delta.setdefault(name, None)
            for name in ("tool_calls", "annotations", "reasoning_details"):
                delta.setdefault(name, [])
        yield {"usage": None, "error": None, "system_fingerprint": None, "citations": None, **chunk}


def no_place(chunks: list[Chunk]) -> Iterator[Chunk]:
    """No index of a choice that is alone, nor what kind of chunk it is."""
    for chunk in chunks:
        choices = chunk.get("choices") or []
        if len(choices) == 1 and not choices[0].get("index"):
            choices[0].pop("index", None)
        yield {key: value for key, value in chunk.items() if key not in ("object", "created")}


def finished_twice(chunks: list[Chunk]) -> Iterator[Chunk]:
    """The finish reason again, with nothing said."""
    for chunk in chunks:
        yield chunk
        again = [
            {**choice, "delta": {"role": "assistant", "content": ""}}
            for choice in chunk.get("choices") or ()
            if choice.get("finish_reason")
        ]
        if again and not chunk.get("usage"):
            yield {**_about(chunk), "choices": again}


def in_letters(chunks: list[Chunk]) -> Iterator[Chunk]:
    """Text letter by letter."""
    for chunk in chunks:
        choices = chunk.get("choices") or []
        delta = next(_deltas(chunk), {})
        plain = len(choices) == 1 and not choices[0].get("logprobs")
        for name in _TEXTS:
            text = delta.get(name)
            if plain and isinstance(text, str) and not delta.get("reasoning_details"):
                for letter in text[:-1]:
                    place = {"index": choices[0].get("index", 0), "finish_reason": None}
                    yield {**_about(chunk), "choices": [{**place, "delta": {name: letter}}]}
                delta[name] = text[-1:]
        yield chunk


CHANGES: tuple[Change, ...] = (
    *(no_choices_between, nothing_said_between, all_fields_everywhere, no_place),
    *(finished_twice, in_letters),
)

Calls = list[tuple[str, str, str]]


def _call(index: int | None, call_id: str | None, name: str | None, arguments: Any) -> Chunk:
    call: Chunk = {"index": index, "id": call_id, "type": "function" if call_id else None}
    call["function"] = {"name": name, "arguments": arguments}
    return {key: value for key, value in call.items() if value is not None}


def _one_each(calls: Calls) -> Iterator[list[Chunk]]:
    for call_id, name, arguments in calls:
        yield [_call(None, call_id, name, arguments)]


def _all_at_once(calls: Calls) -> Iterator[list[Chunk]]:
    yield [_call(None, call_id, name, arguments) for call_id, name, arguments in calls]


def _all_at_index_0(calls: Calls) -> Iterator[list[Chunk]]:
    for call_id, name, arguments in calls:
        yield [_call(0, call_id, name, arguments)]


def _counted_from_1(calls: Calls) -> Iterator[list[Chunk]]:
    for index, (call_id, name, arguments) in enumerate(calls, 1):
        yield [_call(index, call_id, name, arguments)]


def _as_objects(calls: Calls) -> Iterator[list[Chunk]]:
    for index, (call_id, name, arguments) in enumerate(calls):
        yield [_call(index, call_id, name, json.loads(arguments or "{}"))]


def _heads_with_null(calls: Calls) -> Iterator[list[Chunk]]:
    for index, (call_id, name, arguments) in enumerate(calls):
        yield [_call(index, call_id, name, None)]
        yield [{**_call(index, None, None, arguments), "id": None, "type": None}]


def _everything_repeated(calls: Calls) -> Iterator[list[Chunk]]:
    for index, (call_id, name, arguments) in enumerate(calls):
        yield [_call(index, call_id, name, "")]
        yield [_call(index, call_id, name, arguments)]


def _empty_names_later(calls: Calls) -> Iterator[list[Chunk]]:
    for index, (call_id, name, arguments) in enumerate(calls):
        yield [_call(index, call_id, name, "")]
        yield [{**_call(index, None, "", arguments), "id": ""}]


def _in_turns(calls: Calls) -> Iterator[list[Chunk]]:
    yield [_call(index, call_id, name, "") for index, (call_id, name, _) in enumerate(calls)]
    for at in range(0, max(len(arguments) for _, _, arguments in calls), 3):
        pieces = [(index, arguments[at : at + 3]) for index, (_, _, arguments) in enumerate(calls)]
        yield [_call(index, None, None, piece) for index, piece in pieces if piece]


# How tool calls may be cut into deltas: for each delta its list of calls.
CUTS: tuple[Callable[[Calls], Iterator[list[Chunk]]], ...] = (
    *(_one_each, _all_at_once, _all_at_index_0, _counted_from_1, _as_objects, _heads_with_null),
    *(_everything_repeated, _empty_names_later, _in_turns),
)
