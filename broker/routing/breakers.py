"""Which models of which providers are failing: tried last, and tried again now and then; pure.

A breaker opens after some failures in a row and stays open for an interval that doubles; then one
request may try (a probe), and its success closes the breaker.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from broker.errors import InferenceError

# Failures in a row that open a breaker.
FAILURES = 3
# Seconds between probes, at first and at most: who recovers is taken back within that time.
FIRST_S = 2.0
LONGEST_S = 15.0
# No provider is believed for longer: limits are lifted early, too.
_BELIEVED_S = 60.0
# Reasons that speak of the provider's state, not of one request. A limit opens at once.
_FAILING = frozenset(
    {
        "upstream_error",
        "upstream_incomplete",
        "upstream_unreachable",
        "upstream_overloaded",
        "connect_timeout",
        "first_token_timeout",
        "stalled",
    }
)
_AT_ONCE = frozenset({"upstream_rate_limit", "upstream_credentials", "upstream_quota"})
# Providers and models by name: callers choose names, which must not fill the memory.
_MOST = 10_000

Place = tuple[str, str]


@dataclass(slots=True)
class _Breaker:
    failures: int = 0
    interval_s: float = 0.0
    # When it opened last; what began before tells nothing new.
    opened: float = -math.inf
    # When the next probe may go; 0 = it is closed.
    until: float = 0.0


class Breakers:
    """By (provider, model). Times are seconds of one monotonic clock; `begun` is an attempt's."""

    def __init__(self) -> None:
        self._breakers: dict[Place, _Breaker] = {}

    def failed(self, place: Place, error: InferenceError, begun: float, now: float) -> float:
        """Take a failure into account; returns for how long it is to be left alone, 0 = not."""
        if error.reason not in _FAILING and error.reason not in _AT_ONCE:
            return 0.0
        if len(self._breakers) >= _MOST:
            self._breakers.clear()
        breaker = self._breakers.setdefault(place, _Breaker())
        if begun < breaker.opened:
            return 0.0
        breaker.failures += 1
        if breaker.failures < FAILURES and error.reason in _FAILING and not breaker.until:
            return 0.0
        breaker.interval_s = min(max(breaker.interval_s * 2, FIRST_S), LONGEST_S)
        rest = max(breaker.interval_s, min(error.retry_after or 0.0, _BELIEVED_S))
        breaker.opened, breaker.until = now, now + rest
        return rest

    def worked(self, place: Place, begun: float) -> bool:
        """An answer came; returns whether that closed an open breaker."""
        breaker = self._breakers.get(place) if self._breakers else None
        if breaker is None or begun < breaker.opened:
            return False
        del self._breakers[place]
        return breaker.until > 0

    def told(self, place: Place, rest_s: float, now: float) -> None:
        """Somebody else's breaker opened for `rest_s`, or closed (0)."""
        if rest_s <= 0:
            self._breakers.pop(place, None)
            return
        breaker = self._breakers.setdefault(place, _Breaker(FAILURES, FIRST_S))
        breaker.opened, breaker.until = now, max(breaker.until, now + rest_s)

    def resting(self, place: Place, now: float) -> bool:
        """Whether it is to be tried last."""
        breaker = self._breakers.get(place) if self._breakers else None
        return breaker is not None and breaker.until > now

    def probe(self, place: Place, now: float) -> None:
        """A request goes there: if it is a probe, no second one does until the interval is over."""
        breaker = self._breakers.get(place) if self._breakers else None
        if breaker is not None and 0 < breaker.until <= now:
            breaker.until = now + breaker.interval_s
