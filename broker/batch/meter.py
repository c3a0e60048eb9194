"""How fast a batch goes, from what is seen of it now and then; pure."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

# Seconds that the pace is taken over.
_OVER_S = 15.0


@dataclass(frozen=True, slots=True)
class Speed:
    """Lines and tokens in a second, and seconds until all lines have ended; 0 = not known."""

    lines: float = 0.0
    tokens: float = 0.0
    left_s: float = 0.0


class Meter:
    """See the module."""

    def __init__(self) -> None:
        # When, and lines and tokens by then.
        self._seen: deque[tuple[float, int, int]] = deque()

    def see(self, now: float, ended: int, tokens: int, total: int) -> Speed:
        """The speed as of `now`, in seconds of any clock that only goes forward.

        `ended` of `total` lines have used `tokens` by then.
        """
        self._seen.append((now, ended, tokens))
        while len(self._seen) > 2 and self._seen[1][0] < now - _OVER_S:
            self._seen.popleft()
        then, lines, before = self._seen[0]
        if now <= then:
            return Speed()
        speed = (ended - lines) / (now - then)
        left = (total - ended) / speed if speed > 0 else 0.0
        return Speed(speed, (tokens - before) / (now - then), left)
