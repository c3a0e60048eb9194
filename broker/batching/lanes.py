"""Who reads a batch's input: one for all lines, and one for each model that held others up.

Models differ: one is slow, over its limit or has no worker. Its lines are left to a lane of their
own then, which reads the same input from where they stopped the others. How far each lane is, is
part of the batch's progress.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from broker.batch.chunks import Place
from broker.batching.prepare import Prepared
from broker.batching.reading import Reader
from broker.batching.run import Run
from broker.v1 import batch_pb2

# Each reads the whole input.
MOST = 16


class Lane:
    """See the module. `model` is empty for the lane of all lines whose models have none."""

    def __init__(self, among: Lanes, model: str = "") -> None:
        self.run = among.run
        self.among = among
        self.model = model
        self.key = f"{among.run.id}/{model}"
        self.reader: Reader | None = None
        # A chunk that did not fit, and what it asks for.
        self.ready: Prepared | None = None
        self.wants: Counter[str] = Counter()
        # Where its lines go, as far as that is one place.
        self.hint = ""
        # By the loop's clock: when it is worth a try again, and since when nothing fits.
        self.rests_until = 0.0
        self.full_since = 0.0
        self.ended = False

    def takes(self, model: str) -> bool:
        """Whether lines that ask this model are its own."""
        if self.model:
            return model == self.model
        return all(model != lane.model for lane in self.among.all)

    @property
    def place(self) -> Place:
        """Where the first chunk of it is that is not published."""
        at = self._kept()
        return Place(at.next_offset, max(1, at.next_line), at.next_part)

    def published(self, to: Place) -> None:
        """Everything of it before this place is published."""
        at = self._kept()
        at.next_offset, at.next_line, at.next_part = to

    def go_back(self) -> None:
        """Forget what was read ahead: it is read again, from what is not published."""
        self.ready = self.reader = None

    def _kept(self) -> batch_pb2.BatchProgress | batch_pb2.BatchLane:
        progress = self.run.record.progress
        return next((lane for lane in progress.lanes if lane.model == self.model), progress)


class Lanes:
    """The lanes of a batch in one pass over its input, as its progress has them."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.epoch = run.record.progress.epoch
        self.all = [Lane(self)]
        self.all += (Lane(self, kept.model) for kept in run.record.progress.lanes)

    def split(self, lane: Lane, models: Collection[str], at: Place) -> None:
        """Leave the lines of these models, from a place on, to lanes of their own."""
        for model in sorted(models)[: MOST - len(self.all)]:
            kept = self.run.record.progress.lanes.add(model=model)
            kept.next_offset, kept.next_line, kept.next_part = at
            self.all.append(Lane(self, model))
        lane.go_back()
        self.run.moved()
