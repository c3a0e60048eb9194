"""Cuts text at the first stop sequence, also where one is split over several pieces."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from broker.v1 import event_pb2, generation_pb2
from workers.estimate import estimate

Event = event_pb2.Event


class _Choice:
    """One choice so far; `held` is text that may be the beginning of a stop sequence."""

    __slots__ = ("cut", "finished", "held", "item", "logprobs")

    def __init__(self) -> None:
        self.held = ""
        self.item = 0
        self.logprobs: list[bytes] = []
        self.cut = ""
        self.finished = False


class StopCut:
    """A step that ends each choice before its first stop sequence.

    When all choices have ended and the provider goes on, it ends the answer. Its usage is then an
    estimate, as the rest of what the provider says is not waited for.
    """

    def __init__(self, request: generation_pb2.Request, stops: Sequence[str]) -> None:
        self._ended = False
        self._request = request
        self._stops = [stop for stop in stops if stop]
        self._choices: dict[int, _Choice] = {}
        self._expected = max(1, request.generate.n)
        self._text = 0
        self._reasoning = 0

    def over(self, events: Iterable[Event]) -> Iterator[Event]:
        """The events up to the stop sequences, and the end once nothing more can be shown."""
        for event in events:
            kind = event.WhichOneof("kind")
            if kind == "completed":
                for choice in self._choices.values():
                    choice.finished = True
                yield event
                return
            if kind is None or kind == "started":
                yield event
                continue
            number = getattr(event, kind).choice
            choice = self._choices.setdefault(number, _Choice())
            if not choice.cut:
                yield from self._of(number, choice, kind, event)
        if self._over():
            self._ended = True
            usage = estimate(self._request, self._text, self._reasoning)
            yield Event(completed=event_pb2.Completed(usage=usage))

    def _of(self, number: int, choice: _Choice, kind: str, event: Event) -> Iterator[Event]:
        if kind == "text":
            yield from self._add(number, choice, event.text)
            return
        if kind == "reasoning":
            self._reasoning += len(event.reasoning.text)
        yield from self._show(number, choice, len(choice.held))
        if kind == "choice_finished":
            choice.finished = True
        yield event

    def _add(self, number: int, choice: _Choice, piece: event_pb2.TextDelta) -> Iterator[Event]:
        if choice.held and piece.item != choice.item:
            yield from self._show(number, choice, len(choice.held))
        choice.item = piece.item
        choice.held += piece.text
        if piece.logprobs:
            choice.logprobs.append(piece.logprobs)
        found = [(at, stop) for stop in self._stops if (at := choice.held.find(stop)) >= 0]
        if not found:
            yield from self._show(number, choice, len(choice.held) - self._maybe(choice.held))
            return
        at, choice.cut = min(found)
        yield from self._show(number, choice, at)
        choice.finished = True
        finished = event_pb2.ChoiceFinished(
            choice=number, reason=event_pb2.FINISH_REASON_STOP, stop_sequence=choice.cut
        )
        yield Event(choice_finished=finished)

    def _show(self, number: int, choice: _Choice, size: int) -> Iterator[Event]:
        shown, choice.held = choice.held[:size], choice.held[size:]
        if not shown:
            return
        self._text += len(shown)
        delta = event_pb2.TextDelta(choice=number, item=choice.item, text=shown)
        if choice.logprobs:
            inner = (piece.strip()[1:-1] for piece in choice.logprobs)
            delta.logprobs = b"[" + b",".join(inner) + b"]"
            choice.logprobs.clear()
        yield Event(text=delta)

    def _maybe(self, text: str) -> int:
        """How many of the last characters could become a stop sequence with more of them."""
        longest = max(map(len, self._stops), default=1) - 1
        for size in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-size:]) for stop in self._stops):
                return size
        return 0

    def _over(self) -> bool:
        """Whether every choice has ended, and one of them here."""
        choices = self._choices.values()
        return (
            len(choices) >= self._expected
            and all(choice.finished for choice in choices)
            and any(choice.cut for choice in choices)
            and not self._ended
        )
