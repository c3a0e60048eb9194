"""The bill: a projection of attempt records and charges, idempotent by their ids; pure (R16).

An attempt record says what an upstream call used and is never a charge; an answered request has
one charge. Whoever folds the whole USAGE stream gets the same totals, however often a group of
records was written.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from broker.v1 import event_pb2, record_pb2

# The token classes of a usage; they are disjoint, so that their sum is the total.
CLASSES = (
    "input_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "input_audio_tokens",
    "input_image_tokens",
    "output_tokens",
    "reasoning_tokens",
    "output_audio_tokens",
    "output_image_tokens",
)


Record = record_pb2.AttemptRecord | record_pb2.Charge


def _day(record: Record) -> str:
    """YYYY-MM-DD, UTC, by the clock of who wrote it."""
    ms = record.charged_at_ms if isinstance(record, record_pb2.Charge) else record.started_at_ms
    return datetime.fromtimestamp(ms / 1000, UTC).date().isoformat()


# What lines may be made out by. Attempt records do not say for which key they were made.
BY: dict[str, Callable[[Record], str]] = {
    "tenant": lambda record: record.tenant,
    "key": lambda record: record.key if isinstance(record, record_pb2.Charge) else "",
    "provider": lambda record: record.route.provider,
    "model": lambda record: record.route.model,
    "day": _day,
}


@dataclass(slots=True)
class Line:
    """Totals of one (tenant, provider, model), or whatever else a ledger is made out by."""

    charges: int = 0
    # Those among them whose cost nobody knows.
    unpriced: int = 0
    attempts: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    # Billionths of a dollar.
    cost_nano: int = 0
    tokens: dict[str, int] = field(default_factory=lambda: dict.fromkeys(CLASSES, 0))


_OUTCOMES = {
    record_pb2.OUTCOME_COMPLETED: "completed",
    record_pb2.OUTCOME_FAILED: "failed",
    record_pb2.OUTCOME_CANCELLED: "cancelled",
}


def _unpriced(_charge: record_pb2.Charge) -> None:
    """Charges are taken as they are."""


class Ledger:
    """Folds groups of records into lines.

    `window` ids are remembered: a group is only ever written again right after a lost
    acknowledgement, so an id that is this old does not come back. `price` adds the cost to charges
    that were written without. `by` are names of `BY`; days are from `since` to before `until`.
    """

    def __init__(
        self,
        window: int = 500_000,
        price: Callable[[record_pb2.Charge], None] = _unpriced,
        by: Sequence[str] = ("tenant", "provider", "model"),
        *,
        since: str = "",
        until: str = "~",
    ) -> None:
        self.lines: dict[tuple[str, ...], Line] = defaultdict(Line)
        self._by = [BY[name] for name in by]
        self._since, self._until = since, until
        self._dated = bool(since) or until != "~"
        self._seen: OrderedDict[str, None] = OrderedDict()
        self._window = window
        self._price = price

    def apply(self, group: record_pb2.RecordGroup) -> None:
        """Add the records that were not seen before."""
        for record in group.attempts:
            if self._first(f"a{record.request_id}.{record.attempt}") and self._counts(record):
                line = self._line(record)
                line.attempts += 1
                if (outcome := _OUTCOMES.get(record.outcome)) is not None:
                    setattr(line, outcome, getattr(line, outcome) + 1)
        for charge in group.charges:
            if self._first(f"c{charge.request_id}") and self._counts(charge):
                self._price(charge)
                line = self._line(charge)
                line.charges += 1
                line.unpriced += not charge.HasField("cost")
                line.cost_nano += charge.cost.nano_usd
                add_usage(line.tokens, charge.usage)

    def total(self, lines: Iterable[Line] | None = None) -> Line:
        """All lines, or the given ones, together."""
        total = Line()
        for line in self.lines.values() if lines is None else lines:
            total.charges += line.charges
            total.unpriced += line.unpriced
            total.attempts += line.attempts
            total.completed += line.completed
            total.failed += line.failed
            total.cancelled += line.cancelled
            total.cost_nano += line.cost_nano
            for name, count in line.tokens.items():
                total.tokens[name] += count
        return total

    def _line(self, record: Record) -> Line:
        return self.lines[tuple([of(record) for of in self._by])]

    def _counts(self, record: Record) -> bool:
        return not self._dated or self._since <= _day(record) < self._until

    def _first(self, record_id: str) -> bool:
        if record_id in self._seen:
            return False
        self._seen[record_id] = None
        if len(self._seen) > self._window:
            self._seen.popitem(last=False)
        return True


def add_usage(tokens: dict[str, int], usage: event_pb2.Usage) -> None:
    """Add a usage, class by class."""
    for name in CLASSES:
        tokens[name] += getattr(usage, name)
