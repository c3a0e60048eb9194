"""What a provider's headers say of its limits, in whatever spelling; pure.

`x-ratelimit-limit-requests`, `anthropic-ratelimit-tokens-remaining`, `x-ratelimit-limit-req-minute`
and their like become quotas. What a limit is for (a second, a minute, a day) is in the name, or is
told from how its reset moves: where it is the time until all is there again, it grows with what was
used; where the window is fixed, it is never longer than that.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import parsedate_to_datetime

from broker.limits import SHORT_S, Quota

REQUESTS, TOKENS, CONCURRENT = "requests", "tokens", "concurrent"

_MINE = "ratelimit"
_FIELD = r"(?P<field>limit|remaining|reset|renewalperiod)"
_NAME = re.compile(
    rf"(?:x-)?ratelimit-{_FIELD}(?:-(?P<subject>.+))?"
    rf"|anthropic-ratelimit-(?P<theirs>.+)-(?P<last>limit|remaining|reset)"
)
# What a limit counts, by the words of its name; input and output tokens count in `tokens`, too.
_SUBJECT = re.compile(
    r"(?P<kind>requests?|req|tokens|concurren(?:t|cy)(?:-requests)?)?"
    r"(?:-?(?P<many>10)?-?(?P<unit>second|minute|hour|day))?"
)
_KINDS = {"r": REQUESTS, "t": TOKENS, "c": CONCURRENT}
_SECONDS = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86_400.0}
# Limits of this family are a minute's, by its documentation.
_THEIR_WINDOW_S = 60.0
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|us|µs|ns|d|h|m|s)")
_UNITS = {"d": 86_400, "h": 3600, "m": 60, "s": 1, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
# A larger number is a date.
_LONGEST_S = 31 * 86_400.0
# Windows that are in use, where nothing but resets tells of one.
_WINDOWS_S = (1.0, 10.0, 60.0, 3600.0, 86_400.0)
# A reset that is given in whole seconds may be a little over.
_OVER = 1.02
# Resets that grow with what was used agree to this part, when that grew by this much at least.
_AGREE, _APART = 0.05, 1.2
# Of a window: the first pause where nothing remains.
_PAUSE = 0.05
_MOST_NAMES = 1000


@dataclass(frozen=True, slots=True)
class _Named:
    field: str
    subject: str
    kind: str
    window_s: float


_names: dict[str, _Named | None] = {}


def _named(name: str) -> _Named | None:
    """What a header's name says; None for one that is no limit of ours."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    subject = found["theirs"] or found["subject"] or ""
    words = _SUBJECT.fullmatch(subject)
    if words is None:
        return None
    window_s = _SECONDS[words["unit"]] * int(words["many"] or 1) if words["unit"] else 0.0
    if found["theirs"]:
        window_s = _THEIR_WINDOW_S
    kind = _KINDS[(words["kind"] or REQUESTS)[0]]
    return _Named(found["field"] or found["last"], subject, kind, window_s)


@dataclass(slots=True)
class _Values:
    kind: str
    window_s: float
    fields: dict[str, str] = field(default_factory=dict)


class Quotas:
    """The limits of one place, as the answers of its calls tell of them."""

    def __init__(self) -> None:
        self._meters: dict[str, _Meter] = {}
        self._newest: dict[str, Quota] = {}

    def read(self, headers: Mapping[str, str], now: float) -> float | None:
        """Take an answer's headers, with names in lower case; `now` is of a monotonic clock.

        Returns None while something remains, else for how long the place is better left alone: 0
        where nobody says.
        """
        found: dict[str, _Values] | None = None
        for name, value in headers.items():
            if _MINE not in name:
                continue
            if name not in _names:
                if len(_names) >= _MOST_NAMES:
                    _names.clear()
                _names[name] = _named(name)
            named = _names[name]
            if named is not None:
                found = found if found is not None else {}
                values = found.setdefault(named.subject, _Values(named.kind, named.window_s))
                values.fields[named.field] = value
        return self._learn(found, headers.get("date", ""), now) if found else None

    def news(self) -> tuple[Quota, ...]:
        """What came since this was asked last."""
        newest, self._newest = self._newest, {}
        return tuple(newest.values())

    def _learn(self, found: Mapping[str, _Values], date: str, now: float) -> float | None:
        rest: float | None = None
        for subject, values in found.items():
            limit, remaining = (_number(values.fields.get(f, "")) for f in ("limit", "remaining"))
            if limit is None or limit <= 0:
                continue
            meter = self._meters.setdefault(subject, _Meter())
            window_s = values.window_s
            reset = _seconds(values.fields.get("reset", ""), date)
            renewal = _number(values.fields.get("renewalperiod", ""))
            if renewal:
                # Who names its period gives resets in milliseconds.
                window_s = renewal
                reset = reset / 1000 if reset is not None else None
            if remaining is not None and reset is not None:
                meter.saw(limit, remaining, reset)
            window_s = window_s or meter.window_s
            left = limit if remaining is None else min(remaining, limit)
            self._newest[subject] = Quota(values.kind, limit, left, window_s)
            if remaining is None or values.kind == CONCURRENT:
                continue
            if remaining >= 1:
                meter.again_s = 0.0
            else:
                rest = max(rest or 0.0, meter.wait(limit, window_s, reset or 0.0, now))
        return rest


@dataclass(slots=True)
class _Meter:
    """What the resets of one limit tell of its window."""

    window_s: float = 0.0
    # It refills all the time; else all is there again at the end of the window.
    refills: bool = False
    # How long the next pause is, and when the last one ends.
    again_s: float = 0.0
    _until: float = 0.0
    _used: float = 0.0
    _reset: float = 0.0

    def saw(self, limit: float, remaining: float, reset: float) -> None:
        used = limit - remaining
        if used <= 0 or reset <= 0:
            return
        low, high = sorted((used, self._used or used))
        if high >= low * _APART:
            ours, theirs = reset / used, self._reset / self._used
            self.refills = abs(ours - theirs) <= _AGREE * theirs
        if high >= low * _APART or not self._used:
            self._used, self._reset = used, reset
        if self.refills:
            self.window_s = reset * limit / used
        else:
            fixed = next((w for w in _WINDOWS_S if reset <= w * _OVER), reset)
            self.window_s = max(self.window_s, fixed)

    def wait(self, limit: float, window_s: float, reset: float, now: float) -> float:
        """Until something remains again.

        A reset may be when all does. Who keeps to the rate of a short window waits for a part of
        it, and for more each time that nothing remains still.
        """
        if self.refills and window_s:
            return window_s / limit
        if not 0 < window_s <= SHORT_S:
            return reset
        if now >= self._until:
            self.again_s = min(max(2 * self.again_s, window_s * _PAUSE), window_s)
            self._until = now + self.again_s
        return min(reset, self._until - now)


def _number(value: str) -> float | None:
    try:
        number = float(value)
    except ValueError:
        return None
    return number if 0 <= number < float("inf") else None


def _seconds(value: str, date: str) -> float | None:
    """A duration (`6m0s`, `20ms`), a number of seconds, or a time from the answer's own date on."""
    number = _number(value)
    if number is not None:
        return number if number <= _LONGEST_S else None
    parts = _DURATION.findall(value)
    if parts and "".join(n + unit for n, unit in parts) == value:
        return float(sum(float(n) * _UNITS[unit] for n, unit in parts))
    try:
        wait = datetime.fromisoformat(value) - parsedate_to_datetime(date)
    except (TypeError, ValueError):
        return None
    return max(0.0, wait.total_seconds())
