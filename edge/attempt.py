"""One job of an exchange, in the queue or on a worker."""

from __future__ import annotations

from typing import Protocol

from broker.routing import Target
from edge import ids


class Session(Protocol):
    """The running attempt's way back to its worker."""

    @property
    def worker(self) -> str:
        """Where it runs."""

    def kill(self, reason: str) -> None:
        """Abort the upstream call; nothing more is taken from this session."""

    def credit(self, size: int) -> None:
        """Allow `size` more bytes of events."""


class Attempt:
    """One job in the queue or on a worker."""

    __slots__ = (
        "alone",
        "direct",
        "number",
        "published_at",
        "queued",
        "secret",
        "sequence",
        "session",
        "target",
        "withdrawn",
    )

    def __init__(self, number: int, target: Target, now: float) -> None:
        self.number = number
        self.target = target
        self.secret = ids.random_bytes()
        # Where the job lies in the stream; 0 until its PubAck came.
        self.sequence = 0
        self.session: Session | None = None
        self.alone = False
        self.withdrawn = False
        self.direct = False
        self.published_at = now
        # Whether it counts among those that lie published.
        self.queued = False
