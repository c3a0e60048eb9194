"""What a batch would be: every mistake of its lines, how many there are, their tokens and price.

One pass over the file, in flat memory, in steps that leave this process's requests their turn.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from broker.batch import lines, native, states
from broker.batch.sizes import size
from broker.batch.splitter import Splitter
from broker.batching.check import Check
from broker.batching.routes import Routes, named
from broker.bus.files import Files
from broker.catalog.bill import Bill
from broker.catalog.cost import usd
from broker.errors import InferenceError
from broker.fleet import FleetView
from broker.standing import together
from broker.translate.batches import errors_shown
from broker.translate.refusals import invalid
from broker.v1 import batch_pb2, event_pb2, file_pb2
from edge.batches.quote import Lot, cost, most, takes_s
from edge.capacity import Capacity
from edge.store import told

# Models that are shown, and that are told apart.
MOST_MODELS = 100
_MOST_NAMES = 1000
# Estimates that one edge makes at a time, and when one that is refused may ask again, in seconds.
_AT_ONCE = 2
_AGAIN_S = 10.0
# Lines that are read without a pause.
_BREATH = 256


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
    # At the present pace of the models' workers; None = not known.
    seconds: int | None = None
    models: dict[str, int] = field(default_factory=dict)
    errors: list[batch_pb2.BatchError] = field(default_factory=list)


class Estimating:
    """See the module. Models are priced where a request for them would go now."""

    def __init__(
        self, files: Files, routes: Routes, bill: Bill, fleet: FleetView, capacity: Capacity
    ) -> None:
        self._files = files
        self._capacity = capacity
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
        models: dict[str, Lot] = {}

        def seen(line: lines.Line, model: str) -> None:
            known = models.get(model)
            if known is None:
                if len(models) >= _MOST_NAMES:
                    message = f"The file names more than {_MOST_NAMES:,} models."
                    raise invalid("input_file_id", message)
                known = models[model] = Lot()
            known.add(size(line.body))

        file = await self._input(owner, wanted.input_file_id)
        check = Check(wanted, seen, size=file.bytes, count_repeats=True)
        try:
            await self._feed(file, check)
            await check.finish()
            errors = states.listed(check.mistakes)
            found = Estimate(
                total=check.total,
                duplicates=check.duplicates,
                models={
                    name: models[name].count
                    for name in sorted(models, key=lambda name: -models[name].count)[:MOST_MODELS]
                },
                errors=errors,
            )
        finally:
            check.close()
        if not errors:
            if wanted.options.dedupe and check.duplicates:
                await self._leave_out(file, check.firsts, models)
            found.input_tokens = sum(model.read for model in models.values())
            await self._price(wanted, models, found)
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

    async def _leave_out(
        self, record: file_pb2.StoredFile, firsts: Sequence[int], models: Mapping[str, Lot]
    ) -> None:
        """Take lines out again that another one is asked for: which they are is known by now."""
        splitter, number = Splitter(), 0

        def leave(line: bytes) -> None:
            nonlocal number
            number += 1
            if number < len(firsts) and firsts[number]:
                read, head = lines.read(line)
                models[head.model].add(size(read.body), -1)

        with told(record.id):
            async with aclosing(self._files.read(record)) as chunks:
                async for chunk in chunks:
                    for count, line in enumerate(splitter.feed(chunk), 1):
                        leave(line)
                        if not count % _BREATH:
                            await asyncio.sleep(0)
        leave(splitter.last())

    async def _price(
        self, wanted: batch_pb2.StoredBatch, models: Mapping[str, Lot], found: Estimate
    ) -> None:
        endpoint, lots = wanted.endpoint, list(models.values())
        # As it would be if it began at 0.
        begun = batch_pb2.StoredBatch(
            window_s=wanted.window_s,
            expires_at=wanted.window_s,
            options=wanted.options,
            progress=batch_pb2.BatchProgress(total=found.total),
        )
        able = native.wanted(begun, 0)
        for name, lot in models.items():
            decided = await self._routes.decide(endpoint, lines.Head(name), b"")
            targets = (named(name),) if isinstance(decided, InferenceError) else decided
            handed = native.handed_over(targets, self._fleet.has_batches) if able else None
            lot.target, lot.native = (handed or targets)[0], handed is not None
        places = [(lot.target.provider, lot.target.model) for lot in lots]
        allowed = {
            (one.provider, one.model): one for one in together(await self._capacity.all(), places)
        }
        seconds = takes_s(endpoint, lots, self._fleet.pace, self._fleet.slots, allowed)
        found.seconds = None if seconds is None else math.ceil(seconds)
        written = [most(self._bill, endpoint, lot) for lot in lots]
        found.low = cost(self._bill, lots, [0] * len(lots), batch=True)
        if None not in written:
            known = [tokens or 0 for tokens in written]
            strict = wanted.options.execution == native.NATIVE
            found.output_tokens = sum(known)
            # What is handed over only perhaps may cost the whole price.
            found.high = cost(self._bill, lots, known, batch=strict)


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
