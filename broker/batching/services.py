"""What running a batch needs of the world, in one place; and how long things may take."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from broker.batching.routes import Routes
from broker.bus import Bus
from broker.bus.batches import Batches
from broker.bus.files import Files
from broker.bus.outcome import Outcomes
from broker.bus.recorder import Recorder
from broker.bus.responses import Blobs
from broker.bus.results import Results
from broker.routing import Target
from broker.wallclock import now

# Inputs that are read whole at the same time, and from how many bytes on one is large.
_LARGE = 4 << 20
_LARGE_AT_ONCE = 2
_SMALL_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds between looks; tests have less patience."""

    # Progress is written this often, and news looked for.
    checkpoint_s: float = 1.0
    # The queue is looked at this often while lines are published.
    look_s: float = 0.1
    # What is active is read again.
    reread_s: float = 30.0
    # Silence after which lost lines are looked for, and between the looks.
    quiet_s: float = 5.0
    # An active key without a record.
    orphan_s: float = 60.0
    # What a stopped batch waits for results of lines that were begun.
    grace_s: float = 600.0


def _none(_target: Target) -> bool:
    return False


def _any(_provider: str, _model: str) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Services:
    """See the module."""

    bus: Bus
    batches: Batches
    files: Files
    results: Results
    outcomes: Outcomes
    blobs: Blobs
    recorder: Recorder
    routes: Routes
    # How many calls the pool of a subject makes at a time.
    slots: Callable[[str], int]
    pace: Pace = field(default_factory=Pace)
    # Whether workers can hand lines over to a provider's own batch API.
    has_batches: Callable[[Target], bool] = _none
    # Whether it is known what a model of a provider costs.
    priced: Callable[[str, str], bool] = _any
    # What reads a whole input takes turns: memory is bounded however many batches there are.
    _large: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_LARGE_AT_ONCE))
    _small: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_SMALL_AT_ONCE))
    # Set when there may be lines to publish.
    wanted: asyncio.Event = field(default_factory=asyncio.Event)

    def turn(self, size: int) -> asyncio.Semaphore:
        """What whoever reads an input of so many bytes has to hold."""
        return self._large if size > _LARGE else self._small

    def now(self) -> int:
        """Unix seconds by this process's clock, which decides on deadlines (R11)."""
        return now()
