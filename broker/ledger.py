"""The bill: a projection of attempt records and charges, idempotent by their ids; pure (R16).

An attempt record says what an upstream call used and is never a charge; an answered request has
one charge. Whoever folds the whole USAGE stream gets the same totals, however often a group of
records was written.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

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


@dataclass(slots=True)
class Line:
    """Totals of one (tenant, provider, model)."""

    charges: int = 0
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
    that were written without.
    """

    def __init__(
        self, window: int = 500_000, price: Callable[[record_pb2.Charge], None] = _unpriced
    ) -> None:
        self.lines: dict[tuple[str, str, str], Line] = defaultdict(Line)
        self._seen: OrderedDict[str, None] = OrderedDict()
        self._window = window
        self._price = price

    def apply(self, group: record_pb2.RecordGroup) -> None:
        """Add the records that were not seen before."""
        for record in group.attempts:
            if self._first(f"a{record.request_id}.{record.attempt}"):
                line = self._line(record.tenant, record.route.provider, record.route.model)
                line.attempts += 1
                if (outcome := _OUTCOMES.get(record.outcome)) is not None:
                    setattr(line, outcome, getattr(line, outcome) + 1)
        for charge in group.charges:
            if self._first(f"c{charge.request_id}"):
                self._price(charge)
                line = self._line(charge.tenant, charge.route.provider, charge.route.model)
                line.charges += 1
                line.cost_nano += charge.cost.nano_usd
                add_usage(line.tokens, charge.usage)

    def total(self, lines: Iterable[Line] | None = None) -> Line:
        """All lines, or the given ones, together."""
        total = Line()
        for line in self.lines.values() if lines is None else lines:
            total.charges += line.charges
            total.attempts += line.attempts
            total.completed += line.completed
            total.failed += line.failed
            total.cancelled += line.cancelled
            total.cost_nano += line.cost_nano
            for name, count in line.tokens.items():
                total.tokens[name] += count
        return total

    def _line(self, tenant: str, provider: str, model: str) -> Line:
        return self.lines[tenant, provider, model]

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
