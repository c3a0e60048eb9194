"""How far ahead of the workers lines are queued, and whose turn it is; pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from broker.batch import chunks

# Lines ahead of the workers last this long at the rate they are taken.
AHEAD_S = 3.0
# Of one chunk's lines nothing may be left over.
SMALLEST = 2 * chunks.LINES
LARGEST = 20_000
# How much a new look at the rate weighs.
_SMOOTHING = 0.3


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
class Turns:
    """Whose batch is next: owners get equal shares of lines, one's batches go by deadline."""

    # Lines that each owner got, above what the least served one had when it came.
    _served: dict[str, float] = field(default_factory=dict)

    def next(self, ready: Mapping[str, Iterable[tuple[float, str]]]) -> str | None:
        """The batch, of (deadline, batch) that could go on by owner."""
        waiting = {owner: min(batches, default=None) for owner, batches in ready.items()}
        names = [owner for owner, first in waiting.items() if first is not None]
        if not names:
            return None
        known = [self._served[name] for name in names if name in self._served]
        floor = min(known, default=0.0)
        for name in names:
            self._served.setdefault(name, floor)
        first = waiting[min(names, key=lambda name: (self._served[name], name))]
        return first[1] if first is not None else None

    def served(self, owner: str, lines: int) -> None:
        """An owner got its turn."""
        self._served[owner] = self._served.get(owner, 0.0) + lines

    def keep(self, owners: Iterable[str]) -> None:
        """Forget those that have nothing more to run: they come back as newcomers."""
        wanted = set(owners)
        self._served = {name: n for name, n in self._served.items() if name in wanted}
