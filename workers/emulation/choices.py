"""Makes one answer with several choices of the answers of as many calls."""

from __future__ import annotations

from collections.abc import Iterable

from broker.usage import total
from broker.v1 import event_pb2


class Choices:
    """The answer of `calls` calls with `each` choices: those of the first call come first."""

    def __init__(self, calls: int, each: int = 1) -> None:
        self._each = each
        self._open = set(range(calls))
        self._started = False
        self._usages: list[event_pb2.Usage] = []

    def add(self, call: int, events: Iterable[event_pb2.Event]) -> list[event_pb2.Event]:
        """The events of the whole answer that these events of one call make."""
        made: list[event_pb2.Event] = []
        for event in events:
            kind = event.WhichOneof("kind")
            if kind == "started":
                if not self._started:
                    self._started = True
                    made.append(event)
            elif kind == "completed":
                self._open.discard(call)
                self._usages.append(event.completed.usage)
                if not self._open:
                    usage = total(self._usages)
                    made.append(event_pb2.Event(completed=event_pb2.Completed(usage=usage)))
            elif kind == "image_facts":
                made.append(event)  # all of them share these
            elif kind is not None:
                part = getattr(event, kind)
                if part.choice < self._each:  # more than were asked for are nobody's
                    part.choice += call * self._each
                    made.append(event)
        return made
