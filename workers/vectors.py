"""Takes vectors out of an answer as it comes, without reading a single number; pure.

A vector is the longest run of bytes that no reader of JSON needs to look into: 2,048 of them are
tens of megabytes. They are cut out where they begin and end, and what is left of the body, small
and still JSON, is read as a whole at the end.
"""

from __future__ import annotations

import re
import sys
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from broker.errors import InferenceError
from broker.v1 import event_pb2, generation_pb2, operations_pb2
from workers.headers import rate_limits, request_id
from workers.parameters import Losses

JSON = operations_pb2.VECTOR_FORMAT_JSON
BASE64 = operations_pb2.VECTOR_FORMAT_BASE64
FLOAT32 = operations_pb2.VECTOR_FORMAT_FLOAT32
# Who reads one of these has no use for text.
_PACKED = (BASE64, FLOAT32)

# Events are filled up to this, so that a frame stays below 256 KB.
EVENT_BYTES = 192 << 10
# Where no number of a vector came for so many bytes of them, they are in the order of the inputs.
_NUMBERED_WITHIN = 2 << 20
# A name with its colon and white space is not longer.
_TAIL = 64
_CLOSING = {0x5B: b"]", 0x22: b'"'}
_NEXT = re.compile(rb'[\s,]*([\["\]])')
_INDEX = re.compile(rb'"index"\s*:\s*(\d+)\s*[,}]')
_SHOWN = 200
_CHARS_PER_TOKEN = 4

_Events = list[event_pb2.Event]


@dataclass(frozen=True, slots=True)
class Place:
    """Where vectors stand: as the value of a field, or in an array that is.

    The expression ends before a vector, or behind the bracket that opens an array of them.
    """

    field: re.Pattern[bytes]

    def __or__(self, other: Place) -> Place:
        """Either place."""
        return Place(re.compile(self.field.pattern + b"|" + other.field.pattern))

    @classmethod
    def value(cls, *names: str) -> Place:
        """The value of a field with one of these names is a vector."""
        return cls(re.compile(_names(names) + rb'\s*:\s*(?=[\["])'))

    @classmethod
    def array(cls, *names: str) -> Place:
        """A field with one of these names is an array of vectors."""
        return cls(re.compile(_names(names) + rb'\s*:\s*\[(?=\s*[\["\]])'))

    @classmethod
    def whole(cls) -> Place:
        """The answer is an array of vectors."""
        return cls(re.compile(rb'\A\s*\[(?=\s*[\["\]])'))


def _names(names: Iterable[str]) -> bytes:
    return b'"(?:%b)"' % b"|".join(name.encode() for name in names)


class Cutter:
    """Cuts vectors out of a body that comes in pieces; `rest` is the body with 0 in their place."""

    def __init__(self, place: Place) -> None:
        self.rest = bytearray()
        self._place = place
        self._kept = b""
        # Of the vector that has begun: what came before, and where it begins in these bytes.
        self._value: list[bytes] = []
        self._begins = 0
        self._closing = b""
        self._in_array = False

    def feed(self, data: bytes) -> list[bytes]:
        """The vectors that became whole: arrays with their brackets, texts without quotes."""
        data = self._kept + data if self._kept else data
        self._kept = b""
        values: list[bytes] = []
        at = 0
        while at >= 0:
            at = self._inside(data, at, values) if self._closing else self._outside(data, at)
        return values

    def close(self) -> bytes:
        """The whole rest, once the body has ended."""
        self.rest += self._kept
        self.rest += b"".join(self._value)
        return bytes(self.rest)

    def _inside(self, data: bytes, at: int, values: list[bytes]) -> int:
        end = data.find(self._closing, at)
        if end < 0:
            self._value.append(data[self._begins :])
            self._begins = 0
            return -1
        value = data[self._begins : end + (self._closing == b"]")]
        if self._value:
            value = b"".join([*self._value, value])
            self._value.clear()
        values.append(value)
        self._closing = b""
        self.rest += b"0"
        return end + 1

    def _outside(self, data: bytes, at: int) -> int:
        if self._in_array:
            return self._between(data, at)
        found = self._place.field.search(data, at)
        if found is None:
            kept = max(at, len(data) - _TAIL)
            self.rest += data[at:kept]
            self._kept = data[kept:]
            return -1
        self.rest += data[at : found.end()]
        if found[0].endswith(b"["):
            self._in_array = True
            return found.end()
        return self._open(data, found.end())

    def _between(self, data: bytes, at: int) -> int:
        found = _NEXT.match(data, at)
        if found is None:
            # Too little came to tell, or it is no array of vectors.
            self._in_array = data[at:].strip(b" \t\r\n,") == b""
            self._kept = data[at:]
            return -1
        self.rest += data[at : found.start(1)]
        if found[1] == b"]":
            self._in_array = False
            return found.start(1)
        return self._open(data, found.start(1))

    def _open(self, data: bytes, at: int) -> int:
        self._closing = _CLOSING[data[at]]
        self._begins = at + (self._closing == b'"')
        return at + 1  # an opening quote is no closing one


@dataclass(frozen=True, slots=True)
class Said:
    """What an answer says beside its vectors."""

    input_tokens: int | None = None
    model: str = ""


# Reads what is left of an answer; raises `InferenceError` where that is an error.
Read = Callable[[Any, Mapping[str, str]], Said]


def count_of(request: generation_pb2.Request) -> int:
    """How many vectors are asked for."""
    return len(request.embed.texts) or len(request.embed.tokens)


def only_texts(request: generation_pb2.Request, provider: str) -> None:
    """Refuse tokens where a provider reads text alone."""
    if request.embed.tokens:
        raise InferenceError(
            "unsupported_parameter",
            f"{provider} reads texts, not tokens: send strings as input",
            param="input",
            provider=provider,
        )


def one_size(model: str) -> InferenceError:
    """Why dimensions cannot be chosen."""
    message = f"{model} has vectors of one size: leave out dimensions"
    return InferenceError("unsupported_parameter", message, param="dimensions")


def extras_into(
    body: dict[str, Any],
    embed: operations_pb2.EmbedRequest,
    known: Collection[str],
    losses: Losses,
) -> None:
    """Write the caller's further fields that a provider knows; note the others as left out."""
    if embed.HasField("user"):
        losses.drop("user")
    for name, data in embed.extra.items():
        if name in known:
            body[name] = orjson.Fragment(data)
        else:
            losses.drop(name)


class VectorDecoder:
    """The decoder of an answer with vectors, numbered in it or in the order of the inputs.

    `unpack` makes little-endian float32 of vectors that come in a provider's own base64.
    """

    def __init__(
        self,
        request: generation_pb2.Request,
        headers: Mapping[str, str],
        place: Place,
        read: Read,
        unpack: Callable[[bytes], bytes] | None = None,
    ) -> None:
        self._embed = request.embed
        self._wanted = count_of(request)
        self._headers = headers
        self._cutter = Cutter(place)
        self._read = read
        self._unpack = unpack
        self._begun = False
        self._waiting: list[bytes] = []
        self._size = 0
        # Of the vectors that wait; those that are sent already come before.
        self._numbers: list[int] = []
        self._looked_to = 0
        self._seen: set[int] = set()
        self._unnumbered = False

    def feed(self, data: bytes) -> Iterable[event_pb2.Event]:
        """The vectors that became whole, a good many at a time."""
        for value in self._cutter.feed(data):
            self._waiting.append(value)
            self._size += len(value)
        if self._size < EVENT_BYTES:
            return ()
        self._look_for_numbers()
        if not self._seen and not self._numbers and self._size >= _NUMBERED_WITHIN:
            self._unnumbered = True
        ready = len(self._waiting) if self._unnumbered else len(self._numbers)
        return list(self._events(min(ready, len(self._waiting))))

    def close(self) -> Iterable[event_pb2.Event]:
        """The last vectors, and what the answer says beside them."""
        body = self._cutter.close()
        try:
            rest = orjson.loads(body)
        except orjson.JSONDecodeError as exc:
            raise self._unreadable(body) from exc
        try:
            said = self._read(rest, self._headers)
        except (KeyError, TypeError, ValueError, AttributeError) as exc:
            message = f"the provider's answer has an unknown form: {exc}"
            raise self._error("upstream_error", message) from exc
        self._look_for_numbers()
        if len(self._numbers) < len(self._waiting):
            self._unnumbered = True
        events = list(self._events(len(self._waiting)))
        if self._seen != set(range(self._wanted)):
            raise self._error(
                "upstream_error",
                f"the provider sent {len(self._seen)} vectors for {self._wanted} inputs",
            )
        completed = event_pb2.Completed(usage=self._usage(said), model=said.model)
        return [*self._start(), *events, event_pb2.Event(completed=completed)]

    def _look_for_numbers(self) -> None:
        rest = self._cutter.rest
        for found in _INDEX.finditer(rest, self._looked_to):
            self._numbers.append(int(found[1]))
            self._looked_to = found.end()

    def _events(self, count: int) -> Iterator[event_pb2.Event]:
        """The first `count` vectors that wait."""
        values, self._waiting = self._waiting[:count], self._waiting[count:]
        if self._unnumbered:
            begun = len(self._seen)
            numbers = list(range(begun, begun + count))
        else:
            numbers, self._numbers = self._numbers[:count], self._numbers[count:]
        self._size = sum(map(len, self._waiting))
        self._seen.update(numbers)
        if values:
            yield from self._start()
        at = 0
        while at < count:
            end, size = at + 1, len(values[at])
            while (
                end < count
                and numbers[end] == numbers[end - 1] + 1
                and size + len(values[end]) <= EVENT_BYTES
            ):
                size += len(values[end])
                end += 1
            yield event_pb2.Event(vectors=self._vectors(numbers[at], values[at:end]))
            at = end

    def _vectors(self, first: int, values: list[bytes]) -> operations_pb2.Vectors:
        if values[0].startswith(b"["):
            if values[0].startswith(b"[["):
                message = "the model gives a vector for each token, none for a text"
                raise self._error("unsupported_operation", message)
            if self._embed.format in _PACKED:
                # A fifth of the bytes on the way, and of the edge's memory.
                packed = self._floats(values)
                return operations_pb2.Vectors(first=first, format=FLOAT32, values=packed)
            return operations_pb2.Vectors(first=first, format=JSON, values=values)
        if any(b"\\" in value for value in values):  # some writers escape the slash
            values = [value.replace(b"\\/", b"/") for value in values]
        if self._unpack is not None:
            unpacked = list(map(self._unpack, values))
            return operations_pb2.Vectors(first=first, format=FLOAT32, values=unpacked)
        return operations_pb2.Vectors(first=first, format=BASE64, values=values)

    def _floats(self, values: list[bytes]) -> list[bytes]:
        try:
            arrays = [array("f", orjson.loads(value)) for value in values]
        except (TypeError, ValueError, OverflowError) as exc:
            message = "the provider sent something that is no vector"
            raise self._error("upstream_error", message) from exc
        if sys.byteorder == "big":
            for numbers in arrays:
                numbers.byteswap()
        return [numbers.tobytes() for numbers in arrays]

    def _start(self) -> _Events:
        if self._begun:
            return []
        self._begun = True
        started = event_pb2.Started(
            upstream_request_id=request_id(self._headers), rate_limits=rate_limits(self._headers)
        )
        return [event_pb2.Event(started=started)]

    def _usage(self, said: Said) -> event_pb2.Usage:
        if said.input_tokens is not None:
            return event_pb2.Usage(input_tokens=said.input_tokens)
        embed = self._embed
        chars = sum(map(len, embed.texts))
        tokens = sum(len(tokens.ids) for tokens in embed.tokens)
        return event_pb2.Usage(input_tokens=tokens - -chars // _CHARS_PER_TOKEN, estimated=True)

    def _unreadable(self, body: bytes) -> InferenceError:
        if not body.strip():
            return self._error("upstream_incomplete", "the provider sent an empty answer")
        if body.lstrip()[:1] not in b"{[":
            shown = body[:_SHOWN].decode("utf-8", "replace")
            return self._error("upstream_error", f"the provider sent no JSON: {shown}")
        return self._error("upstream_incomplete", "the provider's answer was cut off")

    def _error(self, reason: str, message: str) -> InferenceError:
        return InferenceError(
            reason,
            message,
            upstream_status=200,
            upstream_request_id=request_id(self._headers),
        )
