"""What a batch would be: every mistake of its lines, how many there are, their tokens and price.

One pass over the file, in flat memory, in steps that leave this process's requests their turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from broker.batch import lines
from broker.batch.sizes import size
from broker.batching.check import Check
from broker.batching.routes import Routes, named
from broker.bus.files import Files
from broker.catalog.bill import Bill
from broker.catalog.cost import usd
from broker.errors import InferenceError
from broker.fleet import FleetView
from broker.routing import Target
from broker.translate.batches import errors_shown
from broker.translate.refusals import invalid
from broker.v1 import batch_pb2, event_pb2, file_pb2
from edge.files import told

# Models that are shown, and that are told apart.
MOST_MODELS = 100
_MOST_NAMES = 1000
# Endpoints whose answers are words, and those whose answers are none and cost nothing. Others are
# paid for by what the lines do not say in tokens.
_WORDED = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/responses"})
_WORDLESS = frozenset({"/v1/embeddings", "/v1/moderations"})
# Estimates that one edge makes at a time, and when one that is refused may ask again, in seconds.
_AT_ONCE = 2
_AGAIN_S = 10.0


@dataclass(slots=True)
class Estimate:
    """See the module. `low` and `high` without any answer, and with all that is allowed.

    What is allowed is what the lines say, or the longest answer of their model; None = not known.
    """

    total: int = 0
    input_tokens: int = 0
    output_tokens: int | None = None
    low: event_pb2.Cost | None = None
    high: event_pb2.Cost | None = None
    duplicates: int = 0
    # At the present pace of the models' workers; 0 = not known.
    seconds: int = 0
    models: dict[str, int] = field(default_factory=dict)
    errors: list[batch_pb2.BatchError] = field(default_factory=list)


@dataclass(slots=True)
class _Model:
    """The lines of one model."""

    count: int = 0
    read: int = 0
    # By the lines' own limits; and answers of lines that have none.
    written: int = 0
    unbounded: int = 0


class Estimating:
    """See the module. Models are priced where a request for them would go now."""

    def __init__(self, files: Files, routes: Routes, bill: Bill, fleet: FleetView) -> None:
        self._files = files
        self._routes = routes
        self._bill = bill
        self._fleet = fleet
        self._turns = asyncio.Semaphore(_AT_ONCE)

    async def estimate(self, owner: str, wanted: batch_pb2.StoredBatch) -> Estimate:
        """What this batch would be. Raises `InferenceError`."""
        if self._turns.locked():
            message = f"{_AT_ONCE} estimates are being made already; ask again"
            raise InferenceError("queue_full", message, retry_after=_AGAIN_S)
        async with self._turns:
            return await self._estimate(owner, wanted)

    async def _estimate(self, owner: str, wanted: batch_pb2.StoredBatch) -> Estimate:
        models: dict[str, _Model] = {}

        def seen(line: lines.Line, model: str) -> None:
            known = models.get(model)
            if known is None:
                if len(models) >= _MOST_NAMES:
                    message = f"The file names more than {_MOST_NAMES:,} models."
                    raise invalid("input_file_id", message)
                known = models[model] = _Model()
            read, written, unbounded = size(line.body)
            known.count += 1
            known.read += read
            known.written += written
            known.unbounded += unbounded

        wanted.options.dedupe = True
        check = Check(wanted, seen)
        try:
            await self._feed(await self._input(owner, wanted.input_file_id), check)
            await check.finish()
            errors = sorted(check.mistakes, key=lambda mistake: mistake.line)
            found = Estimate(
                total=check.total,
                input_tokens=sum(model.read for model in models.values()),
                duplicates=len(check.repeats) // 2,
                models={
                    name: models[name].count
                    for name in sorted(models, key=lambda name: -models[name].count)[:MOST_MODELS]
                },
                errors=errors,
            )
        finally:
            check.close()
        if not errors:
            await self._price(wanted.endpoint, models, found)
        return found

    async def _input(self, owner: str, file_id: str) -> file_pb2.StoredFile:
        with told():
            record = await self._files.get(owner, file_id)
        if record is None:
            raise invalid("input_file_id", f"No such File object: {file_id[:60]}")
        return record

    async def _feed(self, record: file_pb2.StoredFile, check: Check) -> None:
        with told(record.id):
            async with aclosing(self._files.read(record)) as chunks:
                async for chunk in chunks:
                    await check.feed(chunk)
                    if check.enough:
                        return

    async def _price(self, endpoint: str, models: dict[str, _Model], found: Estimate) -> None:
        targets: dict[str, Target] = {}
        for name in models:
            decided = await self._routes.decide(endpoint, lines.Head(name), b"")
            targets[name] = named(name) if isinstance(decided, InferenceError) else decided[0]
        found.seconds = round(sum(self._takes_s(targets[name], models[name]) for name in models))
        most = [self._most(endpoint, targets[name], model) for name, model in models.items()]
        if None not in most:
            found.output_tokens = sum(filter(None, most))
        found.low = self._cost(targets, models, [0] * len(models))
        if found.output_tokens is not None:
            found.high = self._cost(targets, models, most)

    def _most(self, endpoint: str, target: Target, model: _Model) -> int | None:
        """Tokens of all answers at most; None = not known."""
        if endpoint in _WORDLESS:
            return 0
        longest = self._bill.most_output(target.provider, target.model)
        if endpoint not in _WORDED or (model.unbounded and not longest):
            return None
        return model.written + model.unbounded * longest

    def _cost(
        self, targets: dict[str, Target], models: dict[str, _Model], written: Sequence[int | None]
    ) -> event_pb2.Cost | None:
        """What it costs when each model's answers have so many tokens; None = not known."""
        total: event_pb2.Cost | None = None
        for (name, model), tokens in zip(models.items(), written, strict=True):
            usage = event_pb2.Usage(input_tokens=model.read, output_tokens=tokens or 0)
            completed = event_pb2.Completed(usage=usage)
            cost = self._bill.cost(targets[name].provider, targets[name].model, completed)
            if cost is None:
                return None
            cost.nano_usd += total.nano_usd if total is not None else 0
            total = cost
        return total

    def _takes_s(self, target: Target, model: _Model) -> float:
        """Seconds for all lines of a model, were the pool theirs alone."""
        pace = self._fleet.pace(target.provider, target.model)
        slots = self._fleet.slots.get((target.provider, target.pool), 0)
        if not slots:
            return 0.0
        return (model.count * pace.first_ms + model.written * pace.token_ms) / 1000 / slots


def shown(found: Estimate) -> dict[str, Any]:
    """The estimate's object."""
    return {
        "object": "batch.estimate",
        "total": found.total,
        "models": found.models,
        "duplicates": found.duplicates,
        "input_tokens": found.input_tokens,
        "output_tokens": found.output_tokens,
        "cost_low": usd(found.low.nano_usd) if found.low is not None else None,
        "cost_high": usd(found.high.nano_usd) if found.high is not None else None,
        "seconds": found.seconds,
        "errors": errors_shown(found.errors),
    }
