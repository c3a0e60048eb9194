"""Every fault that the fake provider plays, as the bytes and pauses of one answer; pure."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from email.utils import formatdate
from functools import partial

from tests.faults.formats import Answer, Json, error, parse, sse


@dataclass(frozen=True)
class Pause:
    """Nothing for so long."""

    seconds: float


@dataclass(frozen=True)
class Slowly:
    """Byte by byte, with a pause between them."""

    data: bytes
    seconds: float = 0.0


class Reset:
    """The connection is reset."""


class Close:
    """The connection is closed in order."""


Step = bytes | Pause | Slowly | Reset | Close
Steps = Sequence[Step]
FOREVER = Pause(3600)
_END = b"0\r\n\r\n"
_SSE = {"content-type": "text/event-stream; charset=utf-8"}
_JSON = {"content-type": "application/json"}


@dataclass(frozen=True)
class Asked:
    """One call, as far as scenes care. `now` is the time in seconds since 1970."""

    answer: Answer
    stream: bool
    now: float
    # Counts the calls of this model, from 1.
    number: int = 1


Scene = Callable[[Asked], Steps]


def head(status: int, headers: dict[str, str], version: str = "1.1") -> bytes:
    lines = [f"HTTP/{version} {status} Said", *(f"{n}: {v}" for n, v in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def body(data: bytes | Json, status: int = 200, **headers: str) -> bytes:
    """A whole answer with its length."""
    raw = data if isinstance(data, bytes) else json.dumps(data, ensure_ascii=False).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return head(status, {**_JSON, "content-length": str(len(raw)), **named}) + raw


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def begun() -> bytes:
    return head(200, {**_SSE, "transfer-encoding": "chunked"})


def streamed(events: Iterable[bytes]) -> Steps:
    """A stream, a chunk for each event, ended in order."""
    return [begun(), *map(chunk, events), _END]


def fine(asked: Asked) -> Steps:
    answer = asked.answer
    return streamed(answer.events) if asked.stream else [body(answer.body)]


# Before an answer.


def refused(status: int, message: str = "", code: str | None = None, **headers: str) -> Scene:
    """An error status with the format's own body."""
    return lambda asked: [
        body(error(asked.answer.format, status, message, code), status, **headers)
    ]


def limited_until(asked: Asked) -> Steps:
    """A 429 whose Retry-After is a date."""
    date = formatdate(asked.now + 3, usegmt=True)
    return refused(429, retry_after=date)(asked)


def said(*steps: Step) -> Scene:
    """The same, whatever is asked."""
    return lambda _: steps


def before(*steps: Step) -> Scene:
    """Something, and then the right answer."""
    return lambda asked: [*steps, *fine(asked)]


def bodied(edit: Callable[[Json], object]) -> Scene:
    """A whole answer that was changed; streams are right."""

    def play(asked: Asked) -> Steps:
        if asked.stream:
            return fine(asked)
        changed = json.loads(json.dumps(asked.answer.body))
        edit(changed)
        return [body(changed)]

    return play


def other_way(asked: Asked) -> Steps:
    """Streams what was to be whole, and the other way round."""
    return fine(Asked(asked.answer, not asked.stream, asked.now))


def typed(kind: str | None) -> Scene:
    """The right answer by another name."""
    headers = {"content-type": kind} if kind else {}

    def play(asked: Asked) -> Steps:
        raw = _raw(asked)
        return [head(200, {**headers, "content-length": str(len(raw))}) + raw]

    return play


def _raw(asked: Asked) -> bytes:
    answer = asked.answer
    return b"".join(answer.events) if asked.stream else json.dumps(answer.body).encode()


# The body's length and coding.


def length(more: int) -> Scene:
    """The right answer, and a length that is wrong by so much; then the end of the connection."""

    def play(asked: Asked) -> Steps:
        raw = _raw(asked)
        headers = {**(_SSE if asked.stream else _JSON), "content-length": str(len(raw) + more)}
        return [head(200, headers) + raw, Close()]

    return play


def until_close(share: float) -> Scene:
    """HTTP/1.0: as much of the right answer as that, and the end of the connection is its end."""

    def play(asked: Asked) -> Steps:
        raw = _raw(asked)
        headers = _SSE if asked.stream else _JSON
        return [head(200, headers, "1.0") + raw[: int(len(raw) * share)], Close()]

    return play


def zipped(asked: Asked, *, share: float = 1.0, coding: str = "gzip") -> Steps:
    raw = gzip.compress(_raw(asked))
    raw = raw[: int(len(raw) * share)]
    kind = _SSE if asked.stream else _JSON
    headers = {**kind, "content-encoding": coding, "content-length": str(len(raw))}
    return [head(200, headers) + raw]


def bad_chunk(asked: Asked) -> Steps:
    """A chunk whose size is none."""
    if not asked.stream:
        raw = _raw(asked)
        headers = {**_JSON, "transfer-encoding": "chunked"}
        return [head(200, headers) + chunk(raw[:100]) + b"zz\r\n" + raw[100:], Close()]
    return [*_shown(asked), b"zz\r\nno chunk\r\n", Close()]


# In the middle.


def _shown(asked: Asked) -> list[Step]:
    """The head of a stream, and its events up to the middle."""
    return [begun(), *map(chunk, asked.answer.events[: asked.answer.middle])]


def breaks(*then: Step, events: Callable[[Answer], Iterable[bytes]] = lambda _: ()) -> Scene:
    """A stream up to its middle and then these; a whole answer up to half of its length."""

    def play(asked: Asked) -> Steps:
        if asked.stream:
            return [*_shown(asked), *map(chunk, events(asked.answer)), *then]
        whole = body(asked.answer.body)
        return [whole[: len(whole) // 2], *(step for step in then if step != _END)]

    return play


def cut_then(scene: Scene) -> Scene:
    """The first call breaks off in the middle; this is what becomes of those behind it."""
    return lambda asked: (breaks(Close()) if asked.number == 1 else scene)(asked)


def with_events(change: Callable[[Answer], Iterable[bytes]], *then: Step) -> Scene:
    """A stream of other events; whole answers are right."""

    def play(asked: Asked) -> Steps:
        if not asked.stream:
            return fine(asked)
        return [begun(), *map(chunk, change(asked.answer)), *(then or (_END,))]

    return play


def written(write: Callable[[bytes], Iterable[Step]]) -> Scene:
    """A stream whose bytes are written another way; whole answers likewise."""

    def play(asked: Asked) -> Steps:
        headers = _SSE if asked.stream else _JSON
        return [head(200, {**headers, "connection": "close"}), *write(_raw(asked)), Close()]

    return play


def late_token(asked: Asked) -> Steps:
    """A stream that begins at once, and has its first token late."""
    answer = asked.answer
    before, after = answer.events[: answer.head], answer.events[answer.head :]
    return [begun(), *map(chunk, before), Pause(20), *map(chunk, after), _END]


def inserted(*events: bytes, last: bool = False) -> Callable[[Answer], Iterable[bytes]]:
    """Events in the middle, or behind the last one."""

    def change(answer: Answer) -> Iterable[bytes]:
        place = len(answer.events) if last else answer.middle
        return [*answer.events[:place], *events, *answer.events[place:]]

    return change


def without(*places: int) -> Callable[[Answer], Iterable[bytes]]:
    """The events but for these; negative places count from the end."""

    def change(answer: Answer) -> Iterable[bytes]:
        gone = {place % len(answer.events) for place in places}
        return [event for place, event in enumerate(answer.events) if place not in gone]

    return change


def unfinished(answer: Answer) -> Iterable[bytes]:
    """Ends as if all were well, but no finish reason was named."""
    if answer.format == "openai":
        return without(-3)(answer)

    def edit(event: Json) -> None:
        event["delta"]["stop_reason"] = None

    return answer.edited(edit, -2)


def finished_twice(answer: Answer) -> Iterable[bytes]:
    place = -3 if answer.format == "openai" else -2
    events = list(answer.events)
    return [*events[:place], events[place], *events[place:]]


def large(answer: Answer, size: int) -> Iterable[bytes]:
    """An event with a field of that many bytes that nobody knows, in the middle."""
    return answer.edited(lambda event: event.update(padding="x" * size), answer.middle)


def doubled_keys(answer: Answer) -> Iterable[bytes]:
    """Fields that nobody knows, everywhere."""
    for event in answer.events:
        if b"[DONE]" in event:
            yield event
            continue
        name, data = parse(event)
        yield sse({**data, "obfuscation": "x" * 9, "new_thing": {"a": [None, 1e300]}}, name)


def error_event(status: int, *, first: bool = False, end: bool = True) -> Scene:
    """An error inside a stream; a whole answer that is an error with status 200."""

    def play(asked: Asked) -> Steps:
        answer = asked.answer
        failure = error(answer.format, status)
        if not asked.stream:
            return [body(failure)]
        shown = answer.events[: 0 if first else answer.middle]
        event = sse(failure, "error" if answer.format == "anthropic" else "")
        done = [sse("[DONE]")] if answer.format == "openai" and end else []
        return [begun(), *map(chunk, [*shown, event, *done]), _END]

    return play


def keep_alive(comments: int, every_s: float) -> Scene:
    """Comments and pings before the first token; whole answers get white space."""

    def play(asked: Asked) -> Steps:
        if not asked.stream:
            raw = _raw(asked)
            parts = [b"\n"] * comments
            steps: list[Step] = [head(200, {**_JSON, "transfer-encoding": "chunked"})]
            for part in parts:
                steps += [chunk(part), Pause(every_s)]
            return [*steps, chunk(raw), _END]
        ping = b": keep-alive\n\n"
        if asked.answer.format == "anthropic":
            ping += sse({"type": "ping"}, "ping")
        steps = [begun()]
        for _ in range(comments):
            steps += [chunk(ping), Pause(every_s)]
        return [*steps, *map(chunk, asked.answer.events), _END]

    return play


def _json_list(raw: bytes) -> Iterable[Step]:
    return [raw[at : at + 3] for at in range(0, len(raw), 3)]


_HTML = b"<!DOCTYPE html><html><head><title>Down</title></head><body>maintenance</body></html>"
_NEWLINE = {"crlf": b"\r\n", "cr": b"\r"}


def lines_end(end: bytes) -> Scene:
    return written(lambda raw: [Slowly(raw.replace(b"\n", end))])


_VOICE = head(200, {"content-type": "audio/mpeg", "transfer-encoding": "chunked"})
# Sound has no last word: what breaks off may only be told by how the connection ends.
VOICES: dict[str, Steps] = {
    "fine": [_VOICE, chunk(b"sound" * 1000), _END],
    "cut": [_VOICE, chunk(b"sound" * 1000), Pause(0.5), Close()],
    "stall": [_VOICE, chunk(b"sound" * 1000), FOREVER],
}

SCENES: dict[str, Scene] = {
    "fine": fine,
    # Statuses.
    **{f"status-{n}": refused(n) for n in (*range(400, 430), 451, *range(500, 530), 598)},
    "limited": refused(429, retry_after="2"),
    "limited-ms": refused(429, retry_after_ms="2000", retry_after="2"),
    "limited-only-ms": refused(429, retry_after_ms="2000"),
    "limited-date": limited_until,
    "limited-long": refused(429, retry_after="60"),
    "limited-nonsense": refused(429, retry_after="soon"),
    "limited-past": refused(429, retry_after="Wed, 21 Oct 2015 07:28:00 GMT"),
    "overloaded-long": refused(503, retry_after="60"),
    "gateway-page": said(body(_HTML, 502, content_type="text/html")),
    "gateway-empty": said(body(b"", 503)),
    "error-cut": said(head(500, {**_JSON, "content-length": "500"}) + b'{"error"', Close()),
    "redirect": said(body(b"", 307, location="http://127.0.0.1:9/v1")),
    "switch": said(head(101, {"upgrade": "websocket", "connection": "upgrade"}), FOREVER),
    "context": refused(400, "prompt is too long: 210000 > 200000", "context_length_exceeded"),
    "policy": refused(
        400, "Output blocked by content filtering policy", "content_policy_violation"
    ),
    # Connections.
    "reset": said(Reset()),
    "close": said(Close()),
    "hang": said(FOREVER),
    "late": before(Pause(20)),
    "late-token": late_token,
    "slow-head": said(Slowly(b"HTTP/1.1 200 OK\r\nx-slow: " + b"y" * 9000, 0.2)),
    "half-head": said(b"HTTP/1.1 200 OK\r\ncontent-ty", Close()),
    "no-http": said(b"SSH-2.0-OpenSSH_9.6\r\n", Close()),
    "large-head": said(head(200, {f"x-{n}": "y" * 1000 for n in range(100)}), FOREVER),
    "interim": before(
        head(100, {}), head(102, {}), head(103, {"link": "</style.css>; rel=preload"})
    ),
    # Answers that are none.
    "page": said(body(_HTML, content_type="text/html")),
    "page-as-json": said(body(_HTML)),
    "page-as-stream": said(begun() + chunk(_HTML) + _END),
    "empty": said(body(b"")),
    "empty-stream": said(begun() + _END),
    "blank": said(body(b" \n \n")),
    "no-content": said(head(204, {})),
    "null": said(body(b"null")),
    "object": said(body(b"{}")),
    "list": said(body(b"[]")),
    "text": said(body(b"upstream connect error or disconnect", content_type="text/plain")),
    "number": said(body(b"1e999")),
    "deep": said(body(b"[" * 100_000)),
    "comments-only": said(begun() + chunk(b": hello\n\n") * 20 + _END),
    "error-in-200": error_event(500, first=True),
    "overloaded-in-200": error_event(529, first=True),
    # Right answers, oddly sent.
    "other-way": other_way,
    "no-type": typed(None),
    "text-type": typed("text/plain"),
    "json-type": typed("application/json"),
    "until-close": until_close(1.0),
    "gzip": zipped,
    "one-byte": written(lambda raw: [Slowly(raw)]),
    "three-bytes": written(_json_list),
    "crlf": lines_end(b"\r\n"),
    "cr": lines_end(b"\r"),
    "bom": written(lambda raw: [b"\xef\xbb\xbf" + raw]),
    "blank-first": written(lambda raw: [b"\n\n \n\n" if raw[:1] == b"{" else b"\n\n\n", raw]),
    "no-space": written(lambda raw: [raw.replace(b"data: ", b"data:")]),
    "more-fields": with_events(doubled_keys),
    "comments-first": keep_alive(8, 0.25),
    "comments-for-ever": keep_alive(200, 0.5),
    "event-2-mb": with_events(partial(large, size=2 << 20)),
    "comments-between": with_events(inserted(b": hello\n\n", b"id: 7\nretry: 10\n\n")),
    "unknown-event": with_events(
        inserted(sse({"type": "brand_new", "object": "brand.new"}, "brand_new"))
    ),
    "no-data": with_events(inserted(b"event: ping\n\n", b"data:\n\n", b"data: \n\n")),
    "done-twice": with_events(lambda answer: [*answer.events, answer.events[-1]]),
    "more-behind": with_events(lambda answer: [*answer.events, answer.events[answer.middle]]),
    "garbage-behind": with_events(inserted(b"data: {oops\n\n", b"<html>", last=True)),
    "finish-twice": with_events(finished_twice),
    "no-end": with_events(without(-1)),
    "no-end-cut": with_events(without(-1), Close()),
    "no-end-silent": with_events(without(-1), FOREVER),
    "end-cut": with_events(lambda answer: answer.events, Close()),
    "end-silent": with_events(lambda answer: answer.events, FOREVER),
    # Broken bodies.
    "longer": length(10),
    "shorter": length(-2000),
    "cut-at-close": until_close(0.5),
    "gzip-cut": partial(zipped, share=0.6),
    "gzip-not": said(body(b"no gzip at all", content_encoding="gzip")),
    "brotli": partial(zipped, coding="br"),
    "bad-chunk": bad_chunk,
    # Broken off in the middle.
    "cut": breaks(Close()),
    "cut-reset": breaks(Reset()),
    "cut-then-503": cut_then(refused(503)),
    "cut-then-429": cut_then(refused(429, retry_after="1")),
    "cut-then-reset": cut_then(said(Reset())),
    "cut-then-hang": cut_then(said(FOREVER)),
    "stall": breaks(FOREVER),
    "ended-early": breaks(_END, Close()),
    "only-pings": breaks(
        *(step for _ in range(200) for step in (chunk(b": still here\n\n"), Pause(0.5))), FOREVER
    ),
    "event-cut": breaks(_END, Close(), events=lambda answer: [answer.events[answer.middle][:-20]]),
    "bad-json": breaks(
        _END,
        Close(),
        events=lambda answer: [
            answer.events[answer.middle][:-4] + b"\n\n",
            *answer.events[answer.middle + 1 :],
        ],
    ),
    "page-between": breaks(_END, Close(), events=lambda _: [_HTML + b"\n\n"]),
    "error-event": error_event(500),
    "error-event-open": error_event(500, end=False),
    "overloaded-event": error_event(529),
    "limited-event": error_event(429),
    "no-finish": with_events(unfinished),
    "event-20-mb": with_events(partial(large, size=20 << 20)),
}
