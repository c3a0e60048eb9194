"""What an exchange asks of what all exchanges share: the queue, the books and the dice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from broker.errors import InferenceError
from broker.routing import Target
from broker.v1 import event_pb2
from edge.attempt import Attempt

if TYPE_CHECKING:  # which imports this
    from edge.exchange import Exchange


class Host(Protocol):
    """See the module."""

    def publish(self, exchange: Exchange, attempt: Attempt) -> None:
        """Put an attempt into the queue; `exchange.refused` follows if it is not taken."""

    def taken(self, attempt: Attempt) -> None:
        """A published attempt lies in the queue no more: a worker has it, or it was refused."""

    def withdraw(self, attempt: Attempt) -> None:
        """Take a superseded or cancelled attempt out of the queue (R2)."""

    def move(self, exchange: Exchange, old: Target, new: Target, *, launched: bool) -> None:
        """Launch it at `new` when its key's turn comes there.

        Its place at `old` is free, or the one in that line where it was not `launched` yet.
        """

    def hedge(self, target: Target) -> bool:
        """Whether a second attempt may run at `target` now: it then has a place there."""

    def hedged(self, free: Target, outcome: str) -> None:
        """How a second attempt went; the place of one of the two is free."""

    def charge(
        self,
        exchange: Exchange,
        attempt: Attempt,
        started: event_pb2.Started | None,
        completed: event_pb2.Completed,
    ) -> None:
        """Record the one charge of an answered request (R16), and tell its cost."""

    def failed(self, exchange: Exchange, attempt: Attempt, error: InferenceError) -> None:
        """A provider failed an attempt: routes of others may avoid it."""

    def resting(self, exchange: Exchange, target: Target) -> bool:
        """Whether `target` is to be left alone; if it was and is no more, this is its probe."""

    def dead_letter(self, exchange: Exchange, attempt: Attempt) -> None:
        """Bury a job that killed the worker it ran on alone (R6)."""

    def ended(self, exchange: Exchange) -> None:
        """An exchange is over."""

    def jitter(self) -> float:
        """A number from 0 to 1."""
