"""How much one place allows: by the settings, by the provider's headers, and by what it refused.

Of what is found out by refusals nothing is known until the first one. Then the limit is what was
carried; it grows while it is used up (additive increase), up to a little below where it was met,
and past that only now and then; refusals take it back by the part of the calls that was refused
(multiplicative decrease). It is found as calls at a time: these bound calls per second, too, as
long as answers take their time. Pure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

# Of a rate that was advertised, this part is used: calls do not arrive as evenly as they began. It
# becomes less when they are refused all the same, to the least, and more again.
_MARGIN, _LEAST_MARGIN = 0.96, 0.85
_MARGIN_BACK, _MARGIN_STEP = 0.98, 0.001
# Refusals in so many seconds after a limit was first advertised were not ours to know of.
_NEWS_S = 2.0
# A longer window is no rate: what remains of it may be used at once.
SHORT_S = 10.0
# What remains of a long window is used up over this time, but for a part.
_SPEND_S = 5.0
_KEEP = 0.05

# Refusals take the limit back by their part, at most so much, and then to this part of it: to less
# where each of them costs a rest (for each second of it). How near to it growth ends.
_MOST_BACK = 0.3
_BACK, _BACK_PER_REST = 0.96, 0.16
_NEAR = 0.98
# Growth back to it in a second.
_STEP = 0.1
# Seconds until more than what was met is tried: after the first time, which came all at once, and
# later; and how much longer for each second that the provider wanted to be left alone.
_FIRST_PROBE_S, _PROBE_S, _PROBE_PER_REST = 1.5, 6.0, 15.0
# How much more in the first second, doubled in each that goes well, up to the most.
_PROBE, _FIRST_PROBE, _MOST_PROBE = 0.01, 0.04, 0.08
# Used to this part, a limit is what holds calls back.
_BINDING = 0.8
# Calls at a time are one at least: where that is too much, calls per second are found out.
_FLOOR = 1.0
_RATE_FLOOR = 0.5
# What was carried once is likely to be carried again: the way back to this part of it is short. It
# counts for a little less each second.
_LIKELY, _FADING = 0.7, 0.998
# Answers that take so much longer than they used to mean that more calls only wait there.
# Then the limit goes back, to this part of what was met.
_SLOW, _SLOWEST = 2.0, 0.75
_SLOW_ANSWERS = 5
_TYPICAL = 0.03


class Configured(msgspec.Struct, frozen=True, omit_defaults=True):
    """Limits of each key and model in the settings; None = none that is known."""

    concurrent: int | None = None
    requests_per_second: float | None = None
    tokens_per_minute: float | None = None


class Quota(msgspec.Struct, frozen=True, array_like=True):
    """One limit that a provider's headers tell of; `kind` is requests, tokens or concurrent.

    `window_s` is what it is for, 0 = not known.
    """

    kind: str
    limit: float
    remaining: float
    window_s: float


class Counted(Protocol):
    """What a worker counted at a place (`broker.capacity.Seen`)."""

    @property
    def running(self) -> int: ...
    @property
    def peak(self) -> int: ...
    @property
    def waiting(self) -> int: ...
    @property
    def started(self) -> int: ...
    @property
    def answered(self) -> int: ...
    @property
    def answered_s(self) -> float: ...
    @property
    def limited(self) -> int: ...
    @property
    def spent(self) -> int: ...
    @property
    def rest_s(self) -> float: ...
    @property
    def quotas(self) -> tuple[Quota, ...]: ...


@dataclass(slots=True)
class Tick:
    """What all workers counted since the last tick."""

    waiting: int = 0
    started: int = 0
    answered: int = 0
    answered_s: float = 0.0
    limited: int = 0
    spent: int = 0
    rest_s: float = 0.0
    quotas: list[Quota] = field(default_factory=list)
    _peaks: dict[str, int] = field(default_factory=dict)
    _running: dict[str, int] = field(default_factory=dict)
    _spans: dict[str, tuple[int, float]] = field(default_factory=dict)

    def add(self, worker: str, seen: Counted, span_s: float) -> None:
        """One worker's counts of the last `span_s` seconds."""
        self.waiting += seen.waiting
        self.started += seen.started
        self.answered += seen.answered
        self.answered_s += seen.answered_s
        self.limited += seen.limited
        self.spent += seen.spent
        self.rest_s = max(self.rest_s, seen.rest_s)
        self.quotas += seen.quotas
        self._peaks[worker] = max(seen.peak, self._peaks.get(worker, 0))
        self._running[worker] = seen.running
        calls, spans = self._spans.get(worker, (0, 0.0))
        self._spans[worker] = calls + seen.started - seen.limited, spans + span_s

    @property
    def peak(self) -> float:
        """Calls that the provider carried at a time, those that run now included."""
        running = self._running
        return float(sum(max(peak, running.get(w, 0)) for w, peak in self._peaks.items()))

    @property
    def rate(self) -> float:
        """Calls that were not refused, per second."""
        return sum(max(0, calls) / max(span, 0.1) for calls, span in self._spans.values())


@dataclass(slots=True)
class _Found:
    """A limit that is found out by refusals. Infinite = never met."""

    floor: float
    limit: float = math.inf
    met: float = math.inf
    probe_at: float = math.inf
    probe: float = _PROBE
    # The most that was carried lately.
    proven: float = 0.0

    def refused(self, carried: float, part: float, rest_s: float, now: float) -> None:
        """A `part` of the calls was refused, while `carried` were not."""
        first = self.limit == math.inf
        if first:
            self.met = max(self.floor, carried)
        else:
            self.met = max(self.floor, self.limit * (1 - part))
        back = 1.0 if first else _BACK - _BACK_PER_REST * min(rest_s, 1.0)
        self.limit = max(self.floor, self.met * back)
        wait_s = _FIRST_PROBE_S if first else _PROBE_S
        self.probe_at = now + wait_s + rest_s * _PROBE_PER_REST * (not first)
        self.probe = _FIRST_PROBE if first else _PROBE

    def carried(self, used: float) -> None:
        """So much was used, and nothing refused."""
        self.proven = max(self.proven * _FADING, used)

    def grow(self, used: float, now: float) -> None:
        """Calls wait for more."""
        if self.limit == math.inf or used < self.limit * _BINDING:
            return
        step = max(self.floor, self.limit * _STEP)
        if self.limit < self.met * _NEAR:
            self.limit = min(self.limit + step, self.met * _NEAR)
        elif now >= self.probe_at and self.limit < self.proven * _LIKELY:
            self.limit *= 2
        elif now >= self.probe_at:
            self.limit += max(self.floor, self.limit * self.probe)
            self.probe = min(self.probe * 2, _MOST_PROBE)

    def shrink(self) -> None:
        """Answers are slow: more calls than these only wait at the provider."""
        if self.limit < math.inf:
            self.limit = max(min(self.limit, self.met * _SLOWEST), self.limit * _BACK)


class Limit:
    """What is known of one place. Times are seconds of one monotonic clock."""

    def __init__(self) -> None:
        self._slots = _Found(_FLOOR)
        self._rate = _Found(_RATE_FLOOR)
        # The newest of each kind, when it came, and when the first one did.
        self._quotas: dict[tuple[str, float], tuple[Quota, float, float]] = {}
        self._margin = _MARGIN
        self._typical_s = 0.0

    def adapt(self, tick: Tick, now: float) -> None:
        """Learn from what was done since the last second."""
        for quota in tick.quotas:
            self._advertised(quota, now)
        if tick.limited:
            self._refused(tick, now)
            return
        self._margin = min(_MARGIN, self._margin + _MARGIN_STEP)
        self._slots.carried(tick.peak)
        self._rate.carried(tick.rate)
        if self._slowed(tick):
            self._slots.shrink()
        elif tick.waiting:
            self._slots.grow(tick.peak, now)
            self._rate.grow(tick.rate, now)

    def of(self, configured: Configured | None, now: float) -> tuple[float, float, float, str]:
        """Calls at a time, calls and tokens per second, infinite = no limit; and who says so."""
        slots, rate, tokens = self._slots.limit, self._rate.limit, math.inf
        why = ["found"] if min(slots, rate) < math.inf else []
        if self._quotas:
            why.append("advertised")
        for quota, at, _ in self._quotas.values():
            if quota.kind == "concurrent":
                slots = min(slots, quota.limit)
            elif quota.kind == "tokens":
                tokens = min(tokens, self._per_second(quota, now - at))
            else:
                rate = min(rate, self._per_second(quota, now - at))
        if configured is not None and configured != Configured():
            why.append("configured")
            slots = min(slots, configured.concurrent or math.inf)
            rate = min(rate, configured.requests_per_second or math.inf)
            tokens = min(tokens, (configured.tokens_per_minute or math.inf) / 60)
        return slots, rate, tokens, ", ".join(why) if min(slots, rate, tokens) < math.inf else ""

    def found(self) -> tuple[float | None, ...]:
        """What `recall` takes; empty when nothing was found out."""
        values = (self._slots.limit, self._slots.met, self._rate.limit, self._rate.met)
        if min(values) == math.inf:
            return ()
        return tuple(None if value == math.inf else round(value, 2) for value in values)

    def quotas(self) -> tuple[Quota, ...]:
        """What was advertised; what remains of it is nothing to remember."""
        return tuple(Quota(q.kind, q.limit, 0, q.window_s) for q, _, _ in self._quotas.values())

    def recall(
        self, found: tuple[float | None, ...], quotas: tuple[Quota, ...], now: float
    ) -> None:
        """Go on from what another process had found out, and was told."""
        if len(found) == 4:
            values = [math.inf if value is None else value for value in found]
            self._slots.limit, self._slots.met, self._rate.limit, self._rate.met = values
            self._slots.probe_at = self._rate.probe_at = now + _PROBE_S
        for quota in quotas:
            self._quotas[quota.kind, quota.window_s] = quota, now, -math.inf

    def _advertised(self, quota: Quota, now: float) -> None:
        known, at, since = self._quotas.get((quota.kind, quota.window_s), (quota, now, now))
        if now - at < 1.0 and known.limit == quota.limit and known.remaining < quota.remaining:
            quota = known  # of several workers' the one that saw least
        self._quotas[quota.kind, quota.window_s] = quota, now, since

    def _refused(self, tick: Tick, now: float) -> None:
        if any(now - since < _NEWS_S for _, _, since in self._quotas.values()):
            return
        calls = max(tick.started, tick.limited + tick.answered)
        part = min(tick.limited / calls, _MOST_BACK)
        if tick.spent * 2 > tick.limited:
            self._margin = max(_LEAST_MARGIN, self._margin * _MARGIN_BACK)
        elif self._slots.limit <= _FLOOR:
            if tick.answered:  # else nobody knows how many would not be refused
                self._rate.refused(tick.rate, part, tick.rest_s, now)
        else:
            self._slots.refused(tick.peak, part, tick.rest_s, now)

    def _slowed(self, tick: Tick) -> bool:
        if tick.answered < _SLOW_ANSWERS:
            return False
        mean_s = tick.answered_s / tick.answered
        typical_s = self._typical_s or mean_s
        self._typical_s = typical_s + (mean_s - typical_s) * _TYPICAL
        return mean_s > typical_s * _SLOW

    def _per_second(self, quota: Quota, age_s: float) -> float:
        """What may be used of a quota per second; infinite where nobody knows what it is for."""
        if not quota.window_s:
            return math.inf
        steady = quota.limit / quota.window_s * self._margin
        if quota.window_s <= SHORT_S:
            return steady
        # What was used since is in the reports to come.
        left = min(quota.limit, quota.remaining + steady * age_s) - quota.limit * _KEEP
        return steady + max(0.0, left) / _SPEND_S
