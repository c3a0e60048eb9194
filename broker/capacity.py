"""What workers and the leader of the fleet's capacity tell each other: reports and allowances.

A place is (provider, fingerprint of the key, model). Workers report what they did at each place;
the leader says what each allows, and how much of that each worker may use (`broker.allocator`).
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from broker.limits import Configured, Quota

# (provider, fingerprint of the key, model); an empty model stands for those that nobody used yet.
Place = tuple[str, str, str]
ANY = ""

# Of what a place allows, the part that is left to interactive work unless the settings say more.
RESERVE = 0.05
# No provider is believed for longer that it is to be left alone: limits are lifted early, too.
LONGEST_REST_S = 60.0
# A place that nobody used for so long is forgotten.
FORGET_S = 600.0


class Seen(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one worker did at one place since its last report.

    `running` calls are under way, and `peak` were at most when one was answered; `waiting` jobs
    wait for an allowance; `durable` of both are background and batch work. `limited` calls of those
    `started` were refused as too many, `spent` of them while the provider said that nothing
    remained. `answered_s` is what the answered ones took together. `rest_s` is how long the place
    is to be left alone, from now on.
    """

    key: str
    model: str
    running: int = 0
    peak: int = 0
    waiting: int = 0
    durable: int = 0
    started: int = 0
    answered: int = 0
    answered_s: float = 0.0
    limited: int = 0
    spent: int = 0
    tokens: float = 0.0
    rest_s: float = 0.0
    quotas: tuple[Quota, ...] = ()


class Report(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one worker did in the last `span_s` seconds, at the places where it did anything."""

    worker: str
    provider: str
    span_s: float
    seen: tuple[Seen, ...] = ()


class Member(msgspec.Struct, frozen=True, omit_defaults=True):
    """A live worker: what its lease says of it."""

    worker: str
    provider: str
    slots: int
    keys: tuple[str, ...] = ()
    limits: Configured | None = None


class Share(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one worker may do at one place; None = no limit.

    Calls at a time, of these for background and batch work, calls and tokens per second.
    """

    slots: int | None = None
    durable: int | None = None
    rate: float | None = None
    tokens: float | None = None


class Allowance(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a place allows in all, why, and what of it each worker may use.

    An allowance of a lower epoch is of a leader that was replaced. `found` and `quotas` are what a
    successor needs to go on from here.
    """

    provider: str
    key: str
    model: str
    epoch: int = 0
    slots: float | None = None
    rate: float | None = None
    tokens: float | None = None
    why: str = ""
    rest_s: float = 0.0
    shares: Mapping[str, Share] = {}
    found: tuple[float | None, ...] = ()
    quotas: tuple[Quota, ...] = ()

    @property
    def place(self) -> Place:
        """Where it holds."""
        return self.provider, self.key, self.model
