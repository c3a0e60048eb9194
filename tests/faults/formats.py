"""What a right answer and an error look like in the formats that the fake provider speaks; pure."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

# One delta each; some are of several bytes in UTF-8, which faults cut through.
WORDS = tuple(f"wörd{n} " for n in range(60))
TEXT = "".join(WORDS)
# What a tool is called with, where one is offered: as many deltas.
ARGUMENTS = (f'{{"words": "{WORDS[0]}', *WORDS[1:-1], f'{WORDS[-1]}"}}')
TOOL = "say"
# Deltas before a fault in the middle.
SHOWN = 40

Json = dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """A right answer: `events` of a stream, the last of them its end, and the whole `body`."""

    format: str
    events: tuple[bytes, ...]
    body: Json
    # Where in `events` the deltas begin; how many events come behind the last one.
    head: int
    tail: int

    @property
    def middle(self) -> int:
        """The place of the event before which faults in the middle happen."""
        return self.head + SHOWN

    def edited(self, edit: Callable[[Json], object], place: int) -> list[bytes]:
        """The events, one of them changed."""
        events = list(self.events)
        name, data = parse(events[place])
        edit(data)
        events[place] = sse(data, name)
        return events


def sse(data: Json | str, name: str = "") -> bytes:
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
    return (f"event: {name}\n" if name else "").encode() + f"data: {text}\n\n".encode()


def parse(event: bytes) -> tuple[str, Json]:
    """The name and the data of one event."""
    name, _, data = event.decode().strip().rpartition("data: ")
    return name.strip().removeprefix("event: "), json.loads(data)


def openai(model: str, *, tool: bool = False) -> Answer:
    base = {"id": "chatcmpl-1", "created": 1_700_000_000, "model": model}
    usage = {"prompt_tokens": 9, "completion_tokens": 60, "total_tokens": 69}

    def chunk(delta: Json, finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return sse({**base, "object": "chat.completion.chunk", "choices": [choice]})

    last = {**base, "object": "chat.completion.chunk", "choices": [], "usage": usage}
    message: Json = {"role": "assistant", "content": TEXT, "refusal": None}
    begin: Json = {"role": "assistant", "content": ""}
    deltas: list[Json] = [{"content": word} for word in WORDS]
    finish = "stop"
    if tool:
        call = {"index": 0, "id": "call_1", "type": "function"}
        begin = {"role": "assistant", "content": None}
        begin["tool_calls"] = [{**call, "function": {"name": TOOL, "arguments": ""}}]
        deltas = [
            {"tool_calls": [{"index": 0, "function": {"arguments": piece}}]} for piece in ARGUMENTS
        ]
        finish = "tool_calls"
    return Answer(
        "openai",
        (
            chunk(begin),
            *map(chunk, deltas),
            chunk({}, finish),
            sse(last),
            sse("[DONE]"),
        ),
        {
            **base,
            "object": "chat.completion",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": usage,
        },
        head=1,
        tail=3,
    )


def anthropic(model: str, *, tool: bool = False) -> Answer:
    message: Json = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 9, "output_tokens": 1},
    }
    block: Json = {"type": "text", "text": ""}
    deltas = [{"type": "text_delta", "text": word} for word in WORDS]
    stop = {"stop_reason": "end_turn", "stop_sequence": None}
    if tool:
        block = {"type": "tool_use", "id": "toolu_1", "name": TOOL, "input": {}}
        deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in ARGUMENTS]
        stop["stop_reason"] = "tool_use"
    said: list[Json] = [
        {"type": "message_start", "message": message},
        {"type": "content_block_start", "index": 0, "content_block": block},
        *({"type": "content_block_delta", "index": 0, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": stop, "usage": {"output_tokens": 60}},
        {"type": "message_stop"},
    ]
    whole = {
        **message,
        **stop,
        "content": [{"type": "text", "text": TEXT}],
        "usage": {"input_tokens": 9, "output_tokens": 60},
    }
    return Answer("anthropic", tuple(sse(e, e["type"]) for e in said), whole, head=2, tail=3)


# Of a model; `tool`: calls one, streamed, instead of saying something.
ANSWERS: dict[str, Callable[..., Answer]] = {"openai": openai, "anthropic": anthropic}

_ANTHROPIC_TYPES = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def error(format_: str, status: int, message: str = "", code: str | None = None) -> Json:
    """An error as its body has it, or the event of a stream."""
    said = message or f"a fault of the catalogue: {status}"
    if format_ == "anthropic":
        kind = "invalid_request_error" if status < 500 else "api_error"
        kind = _ANTHROPIC_TYPES.get(status, kind)
        return {"type": "error", "error": {"type": kind, "message": said}}
    kind = "invalid_request_error" if status < 500 else "server_error"
    if status == 429:
        kind, code = "requests", code or "rate_limit_exceeded"
    return {"error": {"message": said, "type": kind, "param": None, "code": code}}
