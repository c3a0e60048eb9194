"""Which models of which providers are failing: tried last, and tried again now and then; pure.

A breaker opens after some failures in a row, or at once for a key that is refused or over its
limit, and stays open for an interval that doubles. Then it is half-open: one request of the whole
fleet may try in each interval (a probe), and its success closes the breaker. A model rests at a
provider while the provider fails, or while all of the operator's keys are open for it.
"""

from __future__ import annotations

import math
from collections.abc import Collection
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
# Whom nobody asked to go there for a while lets others ask for the probe first, by so many seconds
# at most; and after so long it has no use for one.
POLITE_S = 1.5
_IDLE_S = 60.0
# When whoever did not get the right asks again: the other one may not have used it.
ASK_AGAIN_S = 1.0

# Provider and model; and with the fingerprint of a key, empty for the provider as a whole.
Place = tuple[str, str]
Entry = tuple[str, str, str]


@dataclass(slots=True)
class _Breaker:
    failures: int = 0
    interval_s: float = 0.0
    # When it opened last; what began before tells nothing new.
    opened: float = -math.inf
    # When it is half-open; 0 = it is closed.
    until: float = 0.0
    # Until when this process may send the fleet's probe.
    right: float = 0.0
    # Whether a probe of this process is on its way, or was.
    probed: bool = False
    asked: float = 0.0


@dataclass(frozen=True, slots=True)
class Opened:
    """A breaker that opened for `rest_s`; the next time it rests for twice `interval_s`."""

    entry: Entry
    rest_s: float
    interval_s: float


class Breakers:
    """Times are seconds of one monotonic clock; `begun` is an attempt's. `keys` are fingerprints.

    With `probes` false nobody asks for the right to probe: what is half-open counts as closed.
    """

    def __init__(self, *, probes: bool = True) -> None:
        self._probes = probes
        self._breakers: dict[Entry, _Breaker] = {}

    def __bool__(self) -> bool:
        """Whether any failure is remembered."""
        return bool(self._breakers)

    def failed(
        self,
        place: Place,
        error: InferenceError,
        begun: float,
        now: float,
        keys: Collection[str] = (),
    ) -> Opened | None:
        """Take a failure into account; returns what it opened."""
        if error.reason not in _FAILING and error.reason not in _AT_ONCE:
            return None
        if len(self._breakers) >= _MOST:
            self._breakers.clear()
        own = error.reason in _AT_ONCE and error.key in keys
        if error.other_keys and not own:
            return None  # one key of several, of which nothing else is known
        entry = *place, error.key if own else ""
        breaker = self._breakers.setdefault(entry, _Breaker())
        if begun < breaker.opened:
            return None
        breaker.failures += 1
        if breaker.failures < FAILURES and error.reason in _FAILING and not breaker.until:
            return None
        breaker.interval_s = min(max(breaker.interval_s * 2, FIRST_S), LONGEST_S)
        rest = max(breaker.interval_s, min(error.retry_after or 0.0, _BELIEVED_S))
        breaker.opened, breaker.until = now, now + rest
        breaker.right, breaker.probed = 0.0, False
        return Opened(entry, rest, breaker.interval_s)

    def worked(
        self, place: Place, begun: float, now: float, keys: Collection[str] = ()
    ) -> list[Entry]:
        """An answer came; returns the open breakers that it closed.

        With which of several keys is not known: those that may be used are believed to work.
        """
        closed: list[Entry] = []
        if not self._breakers:
            return closed
        for key in ("", *keys):
            entry = *place, key
            breaker = self._breakers.get(entry)
            if breaker is None or begun < breaker.opened:
                continue
            if key and now < breaker.until and not breaker.probed:
                continue
            del self._breakers[entry]
            if breaker.until:
                closed.append(entry)
        return closed

    def told(self, entry: Entry, rest_s: float, now: float, interval_s: float = 0.0) -> None:
        """Somebody else's breaker opened for `rest_s`, or closed (0)."""
        if rest_s <= 0:
            self._breakers.pop(entry, None)
            return
        breaker = self._breakers.setdefault(entry, _Breaker(FAILURES))
        breaker.interval_s = max(breaker.interval_s, interval_s, FIRST_S)
        breaker.opened, breaker.until = now, max(breaker.until, now + rest_s)
        breaker.right = 0.0

    def resting(self, place: Place, now: float, keys: Collection[str] = ()) -> bool:
        """Whether it is to be tried last."""
        breaker = self._deciding(place, keys) if self._breakers else None
        if breaker is None:
            return False
        breaker.asked = now
        return now < breaker.until or (self._probes and now >= breaker.right)

    def probe(self, place: Place, now: float, keys: Collection[str] = ()) -> None:
        """A request goes there: if it is a probe, no second one does until the interval is over."""
        breaker = self._deciding(place, keys) if self._breakers else None
        if breaker is not None and breaker.until <= now:
            breaker.until, breaker.right, breaker.probed = now + breaker.interval_s, 0.0, True

    def due(self, place: Place, now: float, keys: Collection[str] = ()) -> float | None:
        """Seconds until the fleet's probe is to be asked for; None = no more.

        It is closed then, or nobody has asked for this place for a while.
        """
        breaker = self._deciding(place, keys) if self._breakers else None
        if breaker is None or not self._probes or now - breaker.asked > _IDLE_S:
            return None
        begins = max(breaker.until, breaker.right)
        if now < begins:
            return begins - now
        # Who has more use for it goes first.
        return max(0.0, begins + min(now - breaker.asked, POLITE_S) - now)

    def interval(self, place: Place, keys: Collection[str] = ()) -> float:
        """Seconds between two probes there."""
        breaker = self._deciding(place, keys)
        return breaker.interval_s if breaker is not None else FIRST_S

    def claimed(self, place: Place, now: float, keys: Collection[str] = (), *, won: bool) -> None:
        """The right to the fleet's next probe is this process's, or somebody else's."""
        breaker = self._deciding(place, keys)
        if breaker is None or breaker.until > now:
            return
        if won:
            breaker.right = now + breaker.interval_s
        else:
            breaker.until = now + ASK_AGAIN_S

    def _deciding(self, place: Place, keys: Collection[str]) -> _Breaker | None:
        """The open or half-open one that keeps requests away; None = nothing does."""
        breaker = self._breakers.get((*place, ""))
        if breaker is not None and breaker.until:
            return breaker
        soonest: _Breaker | None = None
        for key in keys:
            breaker = self._breakers.get((*place, key))
            if breaker is None or not breaker.until:
                return None
            if soonest is None or breaker.until < soonest.until:
                soonest = breaker
        return soonest
