"""Turns the body of a request into a script: which bytes to write when, and how the call ends.

Pure, so that every fault can be read off a table; `playback` acts a script out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import orjson

from workers.sim.answer import Answer, answer_to
from workers.sim.knobs import BadRequestError, Knobs, knobs_of
from workers.sim.wire import (
    Event,
    completion_body,
    error_body,
    stamped,
    stamped_length,
    stream_events,
)

SLICE_BYTES = 65536
_HTML = b"<!DOCTYPE html><html><body><h1>Bad gateway</h1><p>try again later</p></body></html>\n"
_NO_FAULT: frozenset[str] = frozenset()

# HTTP status -> type and code of the OpenAI error body.
STATUS_ERRORS: Mapping[int, tuple[str, str | None]] = {
    401: ("invalid_request_error", "invalid_api_key"),
    403: ("permission_error", None),
    404: ("invalid_request_error", "model_not_found"),
    429: ("rate_limit_error", "rate_limit_exceeded"),
    503: ("server_error", "overloaded"),
    529: ("server_error", "overloaded"),
}
_REASONS: Mapping[int, bytes] = {
    200: b"OK",
    400: b"Bad Request",
    404: b"Not Found",
    405: b"Method Not Allowed",
    413: b"Payload Too Large",
    429: b"Too Many Requests",
    500: b"Internal Server Error",
    503: b"Service Unavailable",
}


class Ending(Enum):
    """What happens to the connection after the last frame."""

    KEEP = "keep"
    CUT = "cut"
    RESET = "reset"
    SILENCE = "silence"


@dataclass(frozen=True, slots=True)
class Frame:
    """Bytes for one write, seconds after the request when it is due, tokens sent by then."""

    wire: bytes
    due: float = 0.0
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class Script:
    """A whole answer on the wire; every frame still holds its stamps."""

    model: str
    status: int
    frames: tuple[Frame, ...]
    ending: Ending = Ending.KEEP
    drip: bool = False  # one byte per write
    stamped: bool = True  # otherwise the frames are what is written, byte by byte
    prompt_tokens: int = 0  # as billed: an answer that carries none of the model's costs nothing


@dataclass(frozen=True, slots=True)
class Play:
    """The script of a request, and the one to play once its fault is used up."""

    script: Script
    healed: Script
    key: str
    knobs: Knobs
    first_n: int | None = None
    keepable: bool = True


def play_of(
    body: bytes, call_number: int, answer: Callable[[bytes, int], Answer] = answer_to
) -> Play:
    """The play for the body of a chat request, or of what `answer` answers.

    Raises:
        BadRequestError: the body is not a request the simulator takes.
    """
    answered = answer(body, call_number)
    knobs = answered.knobs
    healthy = replace(answered, knobs=replace(knobs, fault=_NO_FAULT))
    script = _script(answered)
    return Play(
        script=script,
        healed=_script(healthy) if knobs.first_n is not None else script,
        key=knobs.key or answered.ask.model,
        first_n=knobs.first_n,
        knobs=knobs,
        keepable=not knobs.vary,
    )


def script_of(answer: Callable[[dict[str, Any]], bytes | list[bytes]], body: bytes) -> Script:
    """The script for a request that has one plain answer; knobs of its model work as they can.

    A list of an answer is the events of a stream.

    Raises:
        BadRequestError: the body is not a request the simulator takes.
    """
    try:
        request = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise BadRequestError(f"the body is not JSON: {exc}") from exc
    if not isinstance(request, dict) or not isinstance(request.get("model"), str):
        raise BadRequestError("model must be a name", param="model")
    model = request["model"]
    knobs = knobs_of(model, request.get("sim"))
    fault, start = knobs.fault, knobs.ttft_ms / 1000
    if "hang" in fault:
        return Script(model, 0, (), Ending.SILENCE)
    if "status" in fault:
        return _delayed(_status(knobs, model), start)
    wire = answer(request)
    if isinstance(wire, list):
        return pieces_script(model, knobs, b"text/event-stream", wire)
    whole = _head(200, b"application/json", len(wire), b"") + wire
    ending = _ending(fault)
    if ending is not Ending.KEEP:
        whole = whole[: len(whole) - len(wire) // 2]
    return Script(model, 200, (Frame(whole, start),), ending)


def pieces_script(model: str, knobs: Knobs, content_type: bytes, pieces: Sequence[bytes]) -> Script:
    """The script for an answer whose body comes in pieces, each of which counts as a token."""
    fault, start = knobs.fault, knobs.ttft_ms / 1000
    if "hang" in fault:
        return Script(model, 0, (), Ending.SILENCE)
    if "status" in fault:
        return _delayed(_status(knobs, model), start)
    ending = _ending(fault)
    if ending is not Ending.KEEP:
        pieces = pieces[: len(pieces) // 2 if knobs.after is None else knobs.after]
    head = stamped(_head(200, content_type, None, b""), 0, 0)
    frames = [
        Frame(b"%x\r\n%b\r\n" % (len(piece), piece), start + at * knobs.delay_ms / 1000, at + 1)
        for at, piece in enumerate(pieces)
    ]
    if ending is Ending.KEEP:
        frames.append(Frame(b"0\r\n\r\n", frames[-1].due if frames else start, len(pieces)))
    return Script(model, 200, (Frame(head, start), *frames), ending, stamped=False)


def refusal(error: BadRequestError, model: str = "") -> Script:
    """The script that tells a caller what is wrong with the request."""
    body = error_body(error.message, "invalid_request_error", error.param, error.code)
    return plain(error.status, body, model=model)


def busy(model: str, limit: int) -> Script:
    """The script for a call above `max_open`."""
    body = error_body(f"more than {limit} calls are open", *_with_param(*STATUS_ERRORS[429]))
    return plain(429, body, model=model, extra=b"retry-after: 1\r\n")


def too_many(model: str) -> Script:
    """The script for a call above what is allowed."""
    body = error_body("more calls than are allowed", *_with_param(*STATUS_ERRORS[429]))
    return plain(429, body, model=model)


def plain(
    status: int,
    body: bytes,
    *,
    model: str = "",
    content_type: bytes = b"application/json",
    extra: bytes = b"",
) -> Script:
    """A script that is one write: head and body."""
    wire = _head(status, content_type, len(body), extra) + body
    return Script(model=model, status=status, frames=(Frame(wire),))


def _script(answer: Answer) -> Script:
    knobs, model = answer.knobs, answer.ask.model
    fault, start = knobs.fault, knobs.ttft_ms / 1000
    if "hang" in fault:
        script = Script(model, 0, (), Ending.SILENCE)
    elif "reset" in fault and knobs.after is None:
        script = Script(model, 0, (), Ending.RESET)
    elif "status" in fault:
        script = _delayed(_status(knobs, model), start)
    elif "html" in fault:
        script = _delayed(plain(200, _HTML, model=model, content_type=b"text/html"), start)
    elif answer.ask.stream:
        script = _stream(answer)
    else:
        script = _unary(answer)
    return replace(script, drip="drip" in fault)


def _delayed(script: Script, due: float) -> Script:
    return replace(script, frames=tuple(replace(frame, due=due) for frame in script.frames))


def _status(knobs: Knobs, model: str) -> Script:
    status = knobs.status
    fallback = ("server_error", None) if status >= 500 else ("invalid_request_error", None)
    type_, code = STATUS_ERRORS.get(status, fallback)
    body = error_body(f"simulated status {status}", *_with_param(type_, knobs.code or code))
    extra = b""
    if knobs.retry_after is not None:
        extra = b"retry-after: %b\r\n" % f"{knobs.retry_after:g}".encode()
    return plain(status, body, model=model, extra=extra)


def _with_param(type_: str, code: str | None) -> tuple[str, str | None, str | None]:
    return type_, None, code


def _unary(answer: Answer) -> Script:
    knobs, tokens = answer.knobs, answer.completion_tokens
    fault = knobs.fault
    body = completion_body(answer)
    if "error_event" in fault:
        body = _error(knobs)
    if "bad_json" in fault:
        body = body[: len(body) // 2]
    due = (knobs.ttft_ms + knobs.delay_ms * max(0, tokens - 1)) / 1000
    wire = _head(200, b"application/json", stamped_length(body), b"") + body
    ending = _ending(fault)
    if ending is not Ending.KEEP:
        sent = tokens // 2 if knobs.after is None else min(knobs.after, tokens)
        wire = wire[: len(wire) - len(body) + (len(body) - 1) * sent // max(1, tokens)]
        tokens = sent
    slices = (wire[at : at + SLICE_BYTES] for at in range(0, len(wire), SLICE_BYTES))
    frames = tuple(Frame(part, due, tokens) for part in slices)
    return Script(answer.ask.model, 200, frames, ending, prompt_tokens=answer.ask.prompt_tokens)


def _stream(answer: Answer) -> Script:
    knobs = answer.knobs
    ending = _ending(knobs.fault)
    line_end = b"\r\n" if "crlf" in knobs.fault else b"\n"
    head = _head(200, b"text/event-stream", None, b"cache-control: no-cache\r\n")
    frames = [Frame(head, knobs.ttft_ms / 1000)]
    for step in _steps(answer, list(_broken(answer, stream_events(answer)))):
        data = b"".join(b"data: %b%b" % (event.data, line_end * 2) for event in step)
        tokens = frames[-1].tokens + sum(event.tokens for event in step)
        # A step waits for as many token delays as there are tokens before it.
        due = (knobs.ttft_ms + knobs.delay_ms * frames[-1].tokens) / 1000
        chunk = b"%x\r\n%b\r\n" % (stamped_length(data), data)
        frames.append(Frame(chunk, due, tokens))
    if ending is Ending.KEEP:
        frames[-1] = replace(frames[-1], wire=frames[-1].wire + b"0\r\n\r\n")
    # The head travels with the first step, as a provider's does.
    joined = frames if knobs.burst or len(frames) == 1 else frames[:2]
    first = replace(frames[0], wire=b"".join(f.wire for f in joined), tokens=joined[-1].tokens)
    return Script(
        model=answer.ask.model,
        status=200,
        frames=(first, *frames[len(joined) :]),
        ending=ending,
        prompt_tokens=answer.ask.prompt_tokens,
    )


def _steps(answer: Answer, events: list[Event]) -> Iterator[list[Event]]:
    """Groups events into writes: the roles go with the first delta, the tail with the last."""
    if answer.knobs.burst:
        yield events
        return
    step: list[Event] = []
    has_delta = False
    for event in events:
        if event.kind == "delta" and has_delta:
            yield step
            step = []
        has_delta = has_delta or event.kind == "delta"
        step.append(event)
    if step:
        yield step


def _broken(answer: Answer, events: Iterable[Event]) -> Iterator[Event]:
    """Applies the faults that change the events of a stream."""
    knobs = answer.knobs
    fault = knobs.fault
    ends_early = bool(fault & {"cut", "reset", "stall", "error_event"})
    after = answer.completion_tokens // 2 if knobs.after is None else knobs.after
    sent, broken = 0, False
    for event in events:
        beyond = event.kind != "role" and (sent >= after or event.kind != "delta")
        if ends_early and beyond:
            break
        if event.kind == "done" and "no_done" in fault:
            continue
        if event.kind == "finish" and "no_finish" in fault:
            continue
        if "bad_json" in fault and event.kind == "delta" and sent >= after and not broken:
            broken = True
            yield replace(event, data=event.data[: len(event.data) // 2])
        else:
            yield event
        sent += event.tokens
    if "error_event" in fault:
        yield Event("error", _error(knobs))


def _error(knobs: Knobs) -> bytes:
    return error_body("simulated error", "server_error", None, knobs.code or "server_error")


def _ending(fault: frozenset[str]) -> Ending:
    for name, ending in _ENDINGS.items():
        if name in fault:
            return ending
    return Ending.KEEP


_ENDINGS: Mapping[str, Ending] = {
    "cut": Ending.CUT,
    "reset": Ending.RESET,
    "stall": Ending.SILENCE,
}


def _head(status: int, content_type: bytes, length: int | None, extra: bytes) -> bytes:
    body = b"transfer-encoding: chunked" if length is None else b"content-length: %d" % length
    return b"HTTP/1.1 %d %b\r\ncontent-type: %b\r\n%b\r\nx-request-id: req_sim\x00\r\n%b\r\n" % (
        status,
        _REASONS.get(status, b"Status"),
        content_type,
        body,
        extra,
    )
