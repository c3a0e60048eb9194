"""Asks for many vectors in several calls, as large as the provider takes them, and joins these."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from broker import dispatch
from broker.errors import InferenceError, Retry
from broker.usage import total
from broker.v1 import event_pb2, generation_pb2, operations_pb2
from workers.emulation.steps import Step
from workers.provider import Most

# No known tokenizer makes more tokens of common text: a token is two bytes at least.
_BYTES_PER_TOKEN = 2


class Split:
    """The plan for such a request: which inputs each call gets."""

    def __init__(self, request: generation_pb2.Request, parts: Sequence[range]) -> None:
        self.calls = len(parts)
        self._parts = parts
        self._texts = list(request.embed.texts)
        self._tokens = list(request.embed.tokens)
        self._bare = generation_pb2.Request(platform=request.platform)
        for field, value in request.embed.ListFields():
            if field.name not in ("texts", "tokens"):
                _set(self._bare.embed, field.name, value)

    def steps(self) -> Sequence[Step]:
        """Nothing is changed in the answer of a call."""
        return ()

    def request_of(self, call: int) -> generation_pb2.Request:
        """The request with the inputs of this call alone."""
        part = self._parts[call]
        request = generation_pb2.Request()
        request.CopyFrom(self._bare)
        request.embed.texts.extend(self._texts[part.start : part.stop])
        request.embed.tokens.extend(self._tokens[part.start : part.stop])
        return request

    def joint(self) -> Joined:
        """What makes one answer of the calls' answers."""
        return Joined(self._parts)

    def again_after(self, tries: int, error: InferenceError, jitter: float) -> float | None:
        """Seconds to wait before a failed call is made once more; None if it is not.

        Vectors are the same each time, and those of the other calls are paid for.
        """
        if error.row.retry is not Retry.SAME or tries >= dispatch.MAX_TRIES:
            return None
        return dispatch.delay(tries, error.retry_after, jitter)


def _set(embed: operations_pb2.EmbedRequest, name: str, value: object) -> None:
    if name == "extra":
        embed.extra.update(value)  # type: ignore[call-overload]
    else:
        setattr(embed, name, value)


def split(request: generation_pb2.Request, most: Most) -> Split | None:
    """The plan for a request for vectors; None where one call does."""
    parts = list(_parts(request.embed, most))
    return Split(request, parts) if len(parts) > 1 else None


def _parts(embed: operations_pb2.EmbedRequest, most: Most) -> Iterator[range]:
    count = len(embed.texts) or len(embed.tokens)
    inputs = most.inputs or count
    if not most.tokens or embed.ByteSize() // _BYTES_PER_TOKEN <= most.tokens:
        for start in range(0, count, inputs):
            yield range(start, min(start + inputs, count))
        return
    start = size = 0
    for number, tokens in enumerate(_sizes(embed)):
        if number > start and (number - start == inputs or size + tokens > most.tokens):
            yield range(start, number)
            start, size = number, 0
        size += tokens
    yield range(start, count)


def _sizes(embed: operations_pb2.EmbedRequest) -> Iterator[int]:
    """How many tokens each input has at most."""
    if embed.tokens:
        return (len(tokens.ids) for tokens in embed.tokens)
    return (len(text.encode()) // _BYTES_PER_TOKEN + 1 for text in embed.texts)


class Joined:
    """The answer of several calls: each vector under its number among all inputs, and once."""

    def __init__(self, parts: Sequence[range]) -> None:
        self._parts = parts
        self._open = set(range(len(parts)))
        self._seen: set[int] = set()
        self._started = False
        self._model = ""
        self._usages: list[event_pb2.Usage] = []

    def add(self, call: int, events: Iterable[event_pb2.Event]) -> list[event_pb2.Event]:
        """The events of the whole answer that these events of one call make."""
        made: list[event_pb2.Event] = []
        for event in events:
            kind = event.WhichOneof("kind")
            if kind == "vectors":
                event.vectors.first += self._parts[call].start
                made += self._new(event)
            elif kind == "started" and not self._started:
                self._started = True
                made.append(event)
            elif kind == "completed":
                self._open.discard(call)
                self._usages.append(event.completed.usage)
                self._model = self._model or event.completed.model
                if not self._open:
                    completed = event_pb2.Completed(usage=total(self._usages), model=self._model)
                    made.append(event_pb2.Event(completed=completed))
        return made

    def _new(self, event: event_pb2.Event) -> Iterator[event_pb2.Event]:
        """The vectors that did not come from an earlier try of the call."""
        vectors = event.vectors
        numbers = range(vectors.first, vectors.first + len(vectors.values))
        if self._seen.isdisjoint(numbers):
            self._seen.update(numbers)
            yield event
            return
        for number, value in zip(numbers, vectors.values, strict=True):
            if number not in self._seen:
                self._seen.add(number)
                new = operations_pb2.Vectors(first=number, format=vectors.format, values=[value])
                yield event_pb2.Event(vectors=new)
