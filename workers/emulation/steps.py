"""Lets the events of a decoder go through steps that change them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from broker.v1 import event_pb2
from workers.provider import Decoder


class Step(Protocol):
    """Changes the events of one answer on their way."""

    def over(self, events: Iterable[event_pb2.Event]) -> Iterator[event_pb2.Event]:
        """The events of one piece of the body, changed. Raises `InferenceError`."""
        ...


class Stepped:
    """A decoder with steps behind it; `usage` is what the provider reported, if it came to that."""

    def __init__(self, decoder: Decoder, steps: Sequence[Step]) -> None:
        self.usage: event_pb2.Usage | None = None
        self._decoder = decoder
        self._steps = steps

    def feed(self, data: bytes) -> Iterable[event_pb2.Event]:
        """Events that became whole with these bytes."""
        return self._through(self._decoder.feed(data))

    def close(self) -> Iterable[event_pb2.Event]:
        """The body ended."""
        return self._through(self._decoder.close())

    def _through(self, events: Iterable[event_pb2.Event]) -> Iterable[event_pb2.Event]:
        events = self._counted(events)
        for step in self._steps:
            events = step.over(events)
        return events

    def _counted(self, events: Iterable[event_pb2.Event]) -> Iterator[event_pb2.Event]:
        for event in events:
            if event.HasField("completed"):
                self.usage = event.completed.usage
            yield event
