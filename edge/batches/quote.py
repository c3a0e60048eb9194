"""What the lines of a file would cost and how long they would take, by their sizes; pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from broker import operations
from broker.batch.sizes import Size
from broker.catalog.bill import Bill
from broker.presence import Pace
from broker.routing import Target
from broker.standing import Standing
from broker.translate.lines import OPERATIONS
from broker.v1 import event_pb2

# What is answered in words, and what in none, which costs nothing. Others are paid for by what the
# lines do not say in tokens.
_WORDED = frozenset({operations.GENERATE, operations.COMPLETE})
_WORDLESS = frozenset({operations.EMBED, operations.MODERATE})
# What an answer without a limit of its own is believed to be, in tokens, when its time is told.
USUAL_TOKENS = 250


_NOWHERE = Target("", "", "", listed=False)
_UNLIMITED = Standing("", "", "")


@dataclass(slots=True)
class Lot:
    """The lines of one model; `read` and `written` are tokens."""

    count: int = 0
    read: int = 0
    # By the lines' own limits; and how many lines have none.
    written: int = 0
    unbounded: int = 0
    # Where they would go now, and whether that is the provider's own batch API.
    target: Target = _NOWHERE
    native: bool = False

    def add(self, line: Size, times: int = 1) -> None:
        """One more line, or with -1 one less."""
        self.count += times
        self.read += times * line.read
        self.written += times * line.written
        self.unbounded += times * line.unbounded


def most(bill: Bill, endpoint: str, lot: Lot) -> int | None:
    """Tokens of all answers at most; None = not known."""
    operation = OPERATIONS[endpoint]
    if operation in _WORDLESS:
        return 0
    longest = bill.most_output(lot.target.provider, lot.target.model)
    if operation not in _WORDED or (lot.unbounded and not longest):
        return None
    return lot.written + lot.unbounded * longest


def cost(
    bill: Bill, lots: Sequence[Lot], written: Sequence[int], *, batch: bool
) -> event_pb2.Cost | None:
    """What it costs when each lot's answers have so many tokens; None = not known.

    `batch`: lots that go to the provider's own batch API have its price.
    """
    total: event_pb2.Cost | None = None
    for lot, tokens in zip(lots, written, strict=True):
        usage = event_pb2.Usage(input_tokens=lot.read, output_tokens=tokens)
        completed = event_pb2.Completed(usage=usage)
        target = lot.target
        one = bill.cost(target.provider, target.model, completed, batch=batch and lot.native)
        if one is None:
            return None
        one.nano_usd += total.nano_usd if total is not None else 0
        total = one
    return total


def takes_s(
    endpoint: str,
    lots: Sequence[Lot],
    pace: Callable[[str, str], Pace],
    slots: Mapping[tuple[str, str], int],
    allowed: Mapping[tuple[str, str], Standing],
) -> float | None:
    """Seconds for all lines, were the pools theirs alone; None = not known.

    Pools run beside each other, models of one pool share its slots, and no model goes faster than
    its provider allows. A provider's own batch API says nothing of its pace.
    """
    pools: dict[tuple[str, str], float] = defaultdict(float)
    limited = 0.0
    for lot in lots:
        target = lot.target
        found = pace(target.provider, target.model)
        there: float = slots.get((target.provider, target.pool), 0)
        if lot.native or not there or not found.first_ms:
            return None
        answers = lot.written
        if OPERATIONS[endpoint] in _WORDED:
            answers += lot.unbounded * USUAL_TOKENS
        standing = allowed.get((target.provider, target.model), _UNLIMITED)
        if standing.slots:
            there = min(there, standing.slots)
        call_s = (lot.count * found.first_ms + answers * found.token_ms) / 1000
        pools[target.provider, target.pool] += call_s / there
        for amount, rate in ((lot.count, standing.rate), (lot.read + answers, standing.tokens)):
            limited = max(limited, amount / rate if rate else 0.0)
    return max(limited, *pools.values(), 0.0)
