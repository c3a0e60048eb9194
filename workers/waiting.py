"""Lines of batches that wait for room at a worker, without a slot: by what they wait for.

A model whose provider lets little through keeps a few lines here, and the others go elsewhere, so
that lines of other models come. Times are seconds of one monotonic clock.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field

from broker.v1 import job_pb2

# A line waits for so long before others of its model have to go; lines for so long may stay.
_SLOW_S, _STAY_S = 1.0, 2.0
# Those that go come again when it may be their turn: not later than this, and so many a second.
_LATEST_S, _LEAST_RATE = 5.0, 10.0


@dataclass(slots=True, eq=False)
class Line:
    """A line that is here: `losses` counts the workers that were lost with it."""

    job: job_pb2.Job
    reply: str
    losses: int
    # Whether it may have been run before.
    again: bool
    since: float

    @property
    def needs_seat(self) -> bool:
        """Whether it is for one call, which the gate lets through."""
        return not self.job.HasField("native")

    @property
    def large(self) -> bool:
        """Whether it has to be read before it is run."""
        return self.needs_seat and self.job.line.HasField("range")


@dataclass(slots=True)
class _Group:
    lines: deque[Line] = field(default_factory=deque)
    # How many began in this time between two ticks, and how many a second did in the one before.
    begun: int = 0
    pace: float = 0.0
    # When the last one comes again that had to go.
    again_at: float = 0.0

    def trim(self, least: int, now: float) -> Iterator[tuple[Line, float]]:
        """Take out who came last, each with the seconds until it may come again."""
        if not self.lines or now - self.lines[0].since <= _SLOW_S:
            return
        rate = max(self.pace, self.begun / _STAY_S)
        most = max(least, int(rate * _STAY_S))
        gap = 1 / max(rate, _LEAST_RATE)
        while len(self.lines) > most:
            self.again_at = min(max(self.again_at, now + most * gap) + gap, now + _LATEST_S)
            yield self.lines.pop(), self.again_at - now


class Waiting:
    """See the module. Of each model `least` lines may stay, however slow it is."""

    def __init__(self, least: int) -> None:
        self._least = least
        self._groups: dict[Hashable, _Group] = {}
        # Lines that wait for a seat, by model.
        self.models: Counter[str] = Counter()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, line: Line) -> None:
        """It comes last."""
        self._groups.setdefault(_kind(line), _Group()).lines.append(line)
        self._counted(line, 1)

    def heads(self) -> Iterator[Line]:
        """Those that may begin next, who waits longest first; each may be taken meanwhile.

        Whoever takes one is given the next of its kind.
        """
        groups = [group for group in self._groups.values() if group.lines]
        for group in sorted(groups, key=lambda group: group.lines[0].since):
            while group.lines:
                head = group.lines[0]
                yield head
                if group.lines and group.lines[0] is head:
                    break  # it cannot begin, and no other one of its kind

    def take(self, line: Line) -> None:
        """One of the heads begins."""
        group = self._groups[_kind(line)]
        group.lines.popleft()
        group.begun += 1
        self._counted(line, -1)

    def old(self, before: float) -> list[Line]:
        """Take out those that came before then."""
        gone = []
        for group in self._groups.values():
            while group.lines and group.lines[0].since < before:
                gone.append(group.lines.popleft())
        return self._left(gone)

    def trim(self, now: float) -> list[tuple[Line, float]]:
        """Take out, newest first, what slow models cannot begin soon: lines, and for how long."""
        gone = [one for group in self._groups.values() for one in group.trim(self._least, now)]
        self._left([line for line, _ in gone])
        return gone

    def tick(self, seconds: float) -> None:
        """See how many began in so many seconds, since this was called last."""
        for kind, group in list(self._groups.items()):
            group.pace, group.begun = group.begun / seconds, 0
            if not (group.lines or group.pace):
                del self._groups[kind]

    def _left(self, gone: list[Line]) -> list[Line]:
        for line in gone:
            self._counted(line, -1)
        return gone

    def _counted(self, line: Line, change: int) -> None:
        self._count += change
        if line.needs_seat:
            model = line.job.route.model
            self.models[model] += change
            if not self.models[model]:
                del self.models[model]


def _kind(line: Line) -> Hashable:
    """What it waits for: nothing but a slot, its model, or to be read besides."""
    return line.job.route.model if line.needs_seat else None, line.large
