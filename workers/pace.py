"""How fast a provider's models have answered lately, as one worker has seen it; pure."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field

from broker.presence import Pace
from broker.routing.spread import Spread, bucket, together
from broker.v1 import record_pb2

# What nobody has seen for so long is not known any more, in seconds.
_MEMORY_S = 60.0
# The part of a new figure that is better than the last ones; a worse one counts whole, so that a
# provider that slows down is noticed at once (peak EWMA).
_PART = 0.2
_MOST_MODELS = 64
# Percentiles are of so long, in slices that are forgotten one by one; in seconds.
WINDOW_S = 300.0
_SLICE_S = 30.0


@dataclass(slots=True)
class _Slice:
    """What was counted in a while of its own, since `begun`."""

    begun: float
    first_ms: Counter[int] = field(default_factory=Counter)
    per_second: Counter[int] = field(default_factory=Counter)


class Paces:
    """Figures by model. Times are seconds of one monotonic clock."""

    def __init__(self) -> None:
        self._paces: dict[str, tuple[float, Pace]] = {}
        self._slices: dict[str, deque[_Slice]] = {}

    def took(self, record: record_pb2.AttemptRecord, now: float) -> None:
        """Take an attempt into account; one that gave no answer tells nothing."""
        if record.outcome != record_pb2.OUTCOME_COMPLETED or record.upstream_calls > 1:
            return
        model = record.route.model
        _, old = self._paces.pop(model, (0.0, None))
        self._paces[model] = now, _mixed(old, _pace(record))
        slices = self._slices.pop(model, None) or deque()
        self._slices[model] = slices
        _count(slices, record, now)
        if len(self._paces) > _MOST_MODELS:
            oldest = next(iter(self._paces))
            del self._paces[oldest], self._slices[oldest]

    def known(self, now: float) -> dict[str, Pace]:
        """The figures of the models that were asked lately."""
        return {model: pace for model, (at, pace) in self._paces.items() if now - at < _MEMORY_S}

    def spreads(self, now: float) -> dict[str, Spread]:
        """How the answers of the last minutes were spread, by model."""
        known = {}
        for model, slices in self._slices.items():
            _forget(slices, now)
            if slices:
                known[model] = together(Spread(one.first_ms, one.per_second) for one in slices)
        return known


def _forget(slices: deque[_Slice], now: float) -> None:
    while slices and now - slices[0].begun >= WINDOW_S:
        slices.popleft()


def _count(slices: deque[_Slice], record: record_pb2.AttemptRecord, now: float) -> None:
    _forget(slices, now)
    if not slices or now - slices[-1].begun >= _SLICE_S:
        slices.append(_Slice(now))
    tokens = record.usage.output_tokens + record.usage.reasoning_tokens
    # What came whole has no first token, but a speed.
    if record.first_content_ms and record.duration_ms > record.first_content_ms:
        slices[-1].first_ms[bucket(record.first_content_ms)] += 1
    if tokens > 1 and record.duration_ms:
        slices[-1].per_second[bucket(tokens / record.duration_ms * 1000)] += 1


def _pace(record: record_pb2.AttemptRecord) -> Pace:
    usage = record.usage
    tokens = usage.output_tokens + usage.reasoning_tokens
    writing_ms = record.duration_ms - record.first_content_ms
    # An answer that came whole has no first token and no pace of its own.
    if tokens < 2 or writing_ms <= 0:
        return Pace(record.first_content_ms, 0.0, 0.0)
    return Pace(
        record.first_content_ms, writing_ms / (tokens - 1), tokens / record.duration_ms * 1000
    )


def _mixed(old: Pace | None, new: Pace) -> Pace:
    if old is None:
        return new
    return Pace(
        _peak(old.first_ms, new.first_ms),
        _peak(old.token_ms, new.token_ms),
        -_peak(-old.per_second, -new.per_second),  # here less is worse
    )


def _peak(old: float, new: float) -> float:
    """A higher figure at once, a lower one by and by; one that is missing changes nothing."""
    if not old or not new:
        return old or new
    return max(new, old + (new - old) * _PART)
