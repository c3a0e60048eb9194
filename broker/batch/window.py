"""How far ahead of the workers lines are queued, and whose turn it is; pure."""

from __future__ import annotations

from collections.abc import Collection, Container, Mapping
from dataclasses import dataclass, field

from broker.batch import chunks

# Lines ahead of the workers last this long at the rate they are taken.
AHEAD_S = 3.0
# Of one chunk's lines nothing may be left over.
SMALLEST = 2 * chunks.LINES
LARGEST = 20_000
# How much a new look at the rate weighs.
_SMOOTHING = 0.3
# Batches end at nearly the same time that are apart by so much of the time left.
_ALIKE = 0.1


def window(slots: int, rate: float) -> int:
    """Lines that may be queued or in flight on one subject.

    `slots` are the pool's, `rate` is what was taken lately, in lines a second.
    """
    return min(LARGEST, max(SMALLEST, 4 * slots, int(AHEAD_S * rate)))


@dataclass(slots=True)
class Rates:
    """Lines a second that leave each subject."""

    _rates: dict[str, float] = field(default_factory=dict)

    def seen(self, subject: str, taken: int, seconds: float) -> None:
        """So many lines left the subject in this time."""
        now = taken / seconds
        before = self._rates.get(subject)
        # A backlog that is just being taken again is believed at once.
        known = now if before is None or now > 2 * before else before
        self._rates[subject] = known + _SMOOTHING * (now - known)

    def of(self, subject: str) -> float:
        """Lines a second; 0 = not known."""
        return self._rates.get(subject, 0.0)


@dataclass(slots=True)
class _Shares:
    """Who has had the fewest lines; whoever comes begins with what the least served one had."""

    _served: dict[str, float] = field(default_factory=dict)

    def least(self, names: Collection[str]) -> str:
        floor = min((self._served[name] for name in names if name in self._served), default=0.0)
        for name in names:
            self._served.setdefault(name, floor)
        return min(names, key=lambda name: (self._served[name], name))

    def served(self, name: str, lines: int) -> None:
        self._served[name] = self._served.get(name, 0.0) + lines

    def keep(self, names: Container[str]) -> None:
        self._served = {name: lines for name, lines in self._served.items() if name in names}


@dataclass(slots=True)
class Turns:
    """Whose batch is next: owners get equal shares of lines, one's batches go by deadline.

    Those share that end at nearly the same time, or a small one would wait for all of a large one
    that came a little earlier. The nearer the deadline, the fewer.
    """

    _owners: _Shares = field(default_factory=_Shares)
    _batches: _Shares = field(default_factory=_Shares)

    def next(self, ready: Mapping[str, Collection[tuple[float, str]]], now: float) -> str | None:
        """The batch, of (deadline, batch) that could go on by owner."""
        owners = [owner for owner, batches in ready.items() if batches]
        if not owners:
            return None
        batches = ready[self._owners.least(owners)]
        first, _ = min(batches)
        last = first + _ALIKE * max(0.0, first - now)
        return self._batches.least([batch for deadline, batch in batches if deadline <= last])

    def served(self, owner: str, batch: str, lines: int) -> None:
        """A batch of an owner got its turn."""
        self._owners.served(owner, lines)
        self._batches.served(batch, lines)

    def keep(self, owners: Container[str], batches: Container[str]) -> None:
        """Forget those that have nothing more to run: they come back as newcomers."""
        self._owners.keep(owners)
        self._batches.keep(batches)
