"""Checks the lines of an input as its bytes come, in flat memory, and remembers every mistake."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Callable

from broker.batch import lines, states
from broker.batch.splitter import Splitter
from broker.batching.spill import Spill
from broker.v1 import batch_pb2

# Lines that are read without a pause.
_BREATH = 256


class Check:
    """What is known of the lines so far; `seen` is called for each that is right.

    `size` is the file's, in bytes. With `count_repeats` lines that ask what an earlier one asks are
    counted though the batch does not ask them once; which they are is not kept then.
    """

    def __init__(
        self,
        record: batch_pb2.StoredBatch,
        seen: Callable[[lines.Line, str], object] | None = None,
        *,
        size: int = 0,
        count_repeats: bool = False,
    ) -> None:
        self._seen = seen
        self._endpoint = record.endpoint
        self._options = record.options
        self._ids = Spill(lines.DIGEST)
        self._keeps_repeats = record.options.dedupe
        repeats = record.options.dedupe or count_repeats
        self._bodies = Spill(lines.DIGEST) if repeats else None
        self._splitter = Splitter()
        self._hopeless = False
        self._number = 0
        self._inputs = 0
        self.total = 0
        self.model = ""
        self.mistakes: list[batch_pb2.BatchError] = []
        # Lines that ask what an earlier one asks; and for each line the first that asks the same, 0
        # for itself: four bytes a line, however many repeat one another.
        self.duplicates = 0
        self.firsts = array("I")
        if size > lines.MAX_INPUT and not record.options.large:
            self._fail([lines.too_large()], last=True)

    @property
    def enough(self) -> bool:
        """Whether reading on would tell nothing more that is kept."""
        return self._hopeless or len(self.mistakes) > states.MAX_ERRORS

    async def feed(self, data: bytes) -> None:
        """More of the file; others get their turn every millisecond or two."""
        for count, line in enumerate(self._splitter.feed(data), 1):
            self._line(line)
            if not count % _BREATH:
                await asyncio.sleep(0)
        if self._splitter.size > lines.MAX_LINE:
            self._fail([lines.too_long(self._number + 1)], last=True)

    async def finish(self) -> None:
        """All of the file was fed."""
        if not self.enough and (line := self._splitter.last()):
            self._line(line)
        if not self.total and not self.mistakes:
            self.mistakes.append(lines.empty())
        if self.enough:
            return
        for found in self._ids.repeated():
            if found:
                self.mistakes += [lines.duplicate_id(number, first) for number, first in found]
                self.mistakes.sort(key=lambda mistake: mistake.line)
                self._fail([])
            await asyncio.sleep(0)
        if self._bodies is not None and not self.mistakes:
            await self._find_repeats(self._bodies)

    async def _find_repeats(self, bodies: Spill) -> None:
        if self._keeps_repeats:
            self.firsts = array("I", bytes(4 * (self._number + 1)))
        for found in bodies.repeated():
            self.duplicates += len(found)
            if self._keeps_repeats:
                for number, first in found:
                    self.firsts[number] = first
            await asyncio.sleep(0)

    def close(self) -> None:
        """Forget the digests."""
        self._ids.close()
        if self._bodies is not None:
            self._bodies.close()

    def _line(self, line: bytes) -> None:
        self._number += 1
        if line.isspace() or self.enough:
            return
        self.total += 1
        if self.total > lines.MAX_TASKS and not self._options.large:
            self._fail([lines.too_many()], last=True)
            return
        try:
            read, model = lines.check(line, self._number, self._endpoint)
        except lines.InvalidLineError as exc:
            self._fail(exc.mistakes)
            return
        if not self.model:
            self.model = model
        elif model != self.model and not self._options.mixed_models:
            self._fail([lines.other_model(model, self.model, self._number)])
        if self._endpoint == lines.EMBEDDINGS and not self._options.large:
            self._inputs += lines.inputs(read.body)
            if self._inputs > lines.MAX_INPUTS:
                self._fail([lines.too_many_inputs()], last=True)
                return
        if self._seen is not None:
            self._seen(read, model)
        self._ids.add(lines.id_digest(read.custom_id), self._number)
        if self._bodies is not None:
            self._bodies.add(lines.body_digest(read.body), self._number)

    def _fail(self, mistakes: list[batch_pb2.BatchError], *, last: bool = False) -> None:
        """Keep mistakes; the `last` one is the only one that matters."""
        self._hopeless = self._hopeless or last
        if last:
            self.mistakes = mistakes
            return
        # One more than is told says that there are more.
        self.mistakes = (self.mistakes + mistakes)[: states.MAX_ERRORS + 1]
