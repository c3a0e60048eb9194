"""Other ways in which a server may say the same: each takes an answer apart and writes it anew."""

from __future__ import annotations

import contextlib
import copy
import json
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any

from tests.workers.conformance.recordings import Recording

Change = Callable[[Any], Any]
# Where what the provider lets the model, the caller or a tool say begins: none of the server's.
_OPAQUE = {
    *("arguments", "args", "input", "output", "parameters", "logprobs", "custom", "data"),
    *("metadata", "title", "search_results", "citations", "citation", "document", "results"),
    *("reasoning_details", "groundingMetadata", "toolCall", "toolResponse", "functionResponse"),
    *("content_block_opaque", "annotations", "x_groq"),
}


def _walk(value: Any, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    """The value with each object of the server's own changed."""
    if isinstance(value, list):
        return [_walk(item, change) for item in value]
    if isinstance(value, dict):
        walked = {k: v if k in _OPAQUE else _walk(v, change) for k, v in value.items()}
        return change(walked)
    return value


def unknown_fields(value: Any) -> Any:
    """A newer server says more."""
    news = {"x_new": {"a": [1, None]}, "x_text": "new", "x_none": None}
    return _walk(value, lambda fields: {**news, **fields, "x_list": [{"type": "new"}]})


def without_nulls(value: Any) -> Any:
    """A terse server leaves out what it would call null."""
    return _walk(value, lambda fields: {k: v for k, v in fields.items() if v is not None})


def reversed_keys(value: Any) -> Any:
    """The order of an object's keys means nothing."""
    return _walk(value, lambda fields: dict(reversed(fields.items())))


def floats(value: Any) -> Any:
    """A server whose language knows one kind of number."""

    def whole(value: Any) -> Any:
        return float(value) if type(value) is int else value

    return _walk(value, lambda fields: {k: whole(v) for k, v in fields.items()})


CHANGES: tuple[Change, ...] = (unknown_fields, without_nulls, reversed_keys, floats)


def changed(recording: Recording, change: Change) -> bytes:
    """The answer with every one of its JSON texts changed."""
    if recording.is_binary_stream:
        return b"".join(_frames(recording.answer, change))
    if recording.is_event_stream:
        return _events(recording.answer.decode(), lambda text: _json(text, change)).encode()
    return _json(recording.answer.decode(), change).encode()


def _json(text: str, change: Change) -> str:
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        return text
    return json.dumps(change(value), ensure_ascii=False)


def _events(text: str, write: Callable[[str], str]) -> str:
    return re.sub(r"(?m)^data: ?(.*)$", lambda found: "data: " + write(found[1]), text)


def _frames(answer: bytes, change: Change) -> list[bytes]:
    """AWS event stream messages with another payload, lengths and checksums made anew."""
    frames = []
    while answer:
        total, headers = struct.unpack(">II", answer[:8])
        payload = answer[12 + headers : total - 4]
        payload = _json(payload.decode(), change).encode()
        head = struct.pack(">II", 16 + headers + len(payload), headers)
        head += struct.pack(">I", zlib.crc32(head))
        frame = head + answer[12 : 12 + headers] + payload
        frames.append(frame + struct.pack(">I", zlib.crc32(frame)))
        answer = answer[total:]
    return frames


def _comments(text: str) -> str:
    return ": keep-alive\n\n:\n" + text.replace("\n\n", "\n\n: ping\n\n")


def _kept_alive(text: str) -> str:
    """Events without data, and data without text."""
    return "event: ping\n\n" + text.replace("\n\n", "\n\nevent: keep-alive\n\nid: 7\nretry: 9\n\n")


def _several_lines(text: str) -> str:
    def write(data: str) -> str:
        try:
            written = json.dumps(json.loads(data), indent=1, ensure_ascii=False)
        except json.JSONDecodeError:
            return data
        return written.replace("\n", "\ndata: ")

    return _events(text, write)


# Other ways of writing the same event stream.
FRAMINGS: dict[str, Callable[[str], str]] = {
    "comments": _comments,
    "events without data": _kept_alive,
    "several lines": _several_lines,
    "no space": lambda text: re.sub("(?m)^(data|event): ", r"\1:", text),
    "byte order mark": lambda text: "\ufeff" + text,
    "carriage returns": lambda text: text.replace("\n", "\r"),
    "blank lines": lambda text: "\n\n" + text.replace("\n\n", "\n\n\n\n"),
    "ids": lambda text: re.sub("(?m)^data:", "id: 1\nretry: 5\ndata:", text),
    "trailing comment": lambda text: text + ": bye",
}

# What a field may be that nobody expects; the first stands for a field that is missing.
MISSING = object()
ODD: tuple[Any, ...] = (
    *(MISSING, None, "", "odd", 7, -1, 1e30, True, [], [None], ["odd"], {}, {"odd": 1}),
)
Path = tuple[str | int, ...]


def documents(recording: Recording) -> Iterator[tuple[Any, Callable[[Any], bytes]]]:
    """Each JSON text of an answer, and how to write the answer with another in its place."""
    answer = recording.answer
    if recording.is_binary_stream:
        start = 0
        for end in recording.ends:
            frame = answer[start:end]
            payload = frame[12 + int.from_bytes(frame[4:8], "big") : -4]

            def reframed(value: Any, start: int = start, end: int = end) -> bytes:
                (frame,) = _frames(answer[start:end], lambda _: value)
                return answer[:start] + frame + answer[end:]

            yield from _document(payload.decode(), reframed)
            start = end
    elif recording.is_event_stream:
        text = answer.decode()
        for line in re.finditer(r"(?m)^data: ?(.*)$", text):

            def replaced(value: Any, line: re.Match[str] = line) -> bytes:
                return (text[: line.start(1)] + json.dumps(value) + text[line.end(1) :]).encode()

            yield from _document(line[1], replaced)
    else:
        yield from _document(answer.decode(), lambda value: json.dumps(value).encode())


def _document(
    text: str, write: Callable[[Any], bytes]
) -> Iterator[tuple[Any, Callable[[Any], bytes]]]:
    with contextlib.suppress(json.JSONDecodeError):
        yield json.loads(text), write


def paths(value: Any, path: Path = ()) -> Iterator[Path]:
    """Where each value within a value stands, itself first."""
    yield path
    inner = enumerate(value) if isinstance(value, list) else ()
    for key, item in value.items() if isinstance(value, dict) else inner:
        yield from paths(item, (*path, key))


def put(value: Any, path: Path, odd: Any) -> Any:
    """The value with something odd at a path."""
    if not path:
        return None if odd is MISSING else odd
    value = copy.deepcopy(value)
    holder = value
    for key in path[:-1]:
        holder = holder[key]
    if odd is MISSING:
        del holder[path[-1]]
    else:
        holder[path[-1]] = odd
    return value
