"""A request that may be asked twice: when no content comes for a while, a second attempt runs too.

The first content wins, and the other attempt is stopped. Until then each may fail without loss, and
what is left of the two goes on as a plain exchange. Source: gRPC's hedging (proposal A6) and its
retry throttling.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from broker import dispatch, operations
from broker.errors import InferenceError, Retry
from broker.resume import CONTENT
from broker.routing import Target
from broker.routing.world import Rules
from broker.v1 import event_pb2, generation_pb2
from edge.attempt import Attempt, Session
from edge.exchange import Exchange

# What decides a race.
_TOOK_OVER = "took over"
_DECIDES = CONTENT | {"completed"}
# Of the first attempt's errors those that the second one's answer makes up for.
_MADE_UP_FOR = frozenset({Retry.SAME, Retry.NEXT})


def hedge_after(request: generation_pb2.Request, rules: Rules) -> float:
    """Seconds without content after which a request is hedged; 0 = never."""
    if request.platform.HasField("hedge_after_ms"):
        return request.platform.hedge_after_ms / 1000
    if not rules.hedge_after_ms:
        return 0.0
    return rules.hedge_after_ms.get(operations.model(request), 0) / 1000


class HedgedExchange(Exchange):
    """See the module. `after_s` seconds without content start the second attempt, if it may run."""

    def __init__(self, *args: Any, after_s: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._after_s = after_s
        self._patience: asyncio.TimerHandle | None = None
        self._rival: Attempt | None = None
        # Its number in the plan, and what it said before any content.
        self._number = 0
        self._held: list[event_pb2.Event] = []
        self._held_size = 0

    # What the engine asks and tells.

    def launch(self) -> None:
        """As the plain exchange's; the time for the second attempt begins with the first."""
        super().launch()
        if self._patience is None and not self.done:
            self._patience = self._loop.call_later(self._after_s, self._hedge)

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """As the plain exchange's."""
        return super().attempts + (() if self._rival is None else (self._rival,))

    def wants(self, attempt: Attempt) -> bool:
        """As the plain exchange's."""
        return super().wants(attempt) or (attempt is self._rival and not self.done)

    def supersede(self, attempt: Attempt) -> Attempt:
        """As the plain exchange's."""
        if attempt is not self._rival:
            return super().supersede(attempt)
        self._rival = self._another(attempt.target)
        return self._rival

    def granted(self, attempt: Attempt, session: Session, *, alone: bool) -> None:
        """As the plain exchange's; the first attempt may wait in its queue as before."""
        if attempt is not self._rival:
            super().granted(attempt, session, alone=alone)
            return
        attempt.session = session
        attempt.alone = alone
        self._host.taken(attempt)

    def on_events(self, attempt: Attempt, events: Iterable[event_pb2.Event], size: int) -> None:
        """As the plain exchange's, while the second attempt runs with an eye on who is first."""
        if attempt is not self._rival:
            super().on_events(attempt, events, size)
            if self._rival is not None and not self._silent:
                self._drop("lost", stop="superseded")
        elif not self.done:
            self._heard(attempt, events, size)

    def lost(self, attempt: Attempt) -> None:
        """As the plain exchange's."""
        first, rival = self.attempt, self._rival
        if first is not None and rival is not None:
            one, other = first.session, rival.session
            together = one is not None and other is not None and one.worker == other.worker
            if attempt is rival or (attempt is first and together):
                # A worker that had both is one lost worker: the first attempt's.
                self.plan.losses += not together
                self._give_back(rival)
        super().lost(attempt)

    def handed_back(self, attempt: Attempt) -> None:
        """As the plain exchange's."""
        if attempt is self._rival:
            self._give_back(attempt)
        else:
            super().handed_back(attempt)

    def refused(self, attempt: Attempt, error: InferenceError) -> None:
        """As the plain exchange's."""
        if attempt is self._rival:
            self._host.taken(attempt)
            self._drop("failed")
        else:
            super().refused(attempt, error)

    # Inside.

    @property
    def _silent(self) -> bool:
        """Whether no content came of the answer."""
        return not self._open and len(self._ready) == (self.started is not None)

    def _hedge(self) -> None:
        """Start the second attempt, if the first one is fresh and there is room for both."""
        plan = self.plan
        if self.attempt is None or plan.losses or self.shown.follows or not self._silent:
            return
        self._number = plan.index + plan.has_next
        target = plan.targets[self._number]
        if self._host.hedge(target):
            self._rival = self._another(target)
            self._host.publish(self, self._rival)

    def _heard(self, rival: Attempt, events: Iterable[event_pb2.Event], size: int) -> None:
        """What comes of the second attempt while none has given content."""
        won = False
        for event in events:
            kind = event.WhichOneof("kind") or ""
            if kind == "failed":
                self.plan.errors.append(self._blame(rival, event.failed))
                self._drop("failed")
                return
            self._held.append(event)
            won = won or kind in _DECIDES
        self._held_size += size
        if won:
            if self.attempt is not None:
                self._stop(self.attempt, "superseded")
            self._go_on_with(rival, "won")

    def _settle(self, step: dispatch.Step) -> None:
        """What the first attempt's end is followed by: the second one, where it makes up for it."""
        rival = self._rival
        if rival is None or (
            isinstance(step, dispatch.GiveUp) and step.error.row.retry not in _MADE_UP_FOR
        ):
            super()._settle(step)
        else:
            self._go_on_with(rival, _TOOK_OVER)

    def _go_on_with(self, rival: Attempt, outcome: str) -> None:
        """The second attempt is the only one from now on; what it has said counts."""
        first = self.attempt
        if self._retry_timer is not None:
            self._retry_timer.cancel()  # the first attempt's patience with its queue
            self._retry_timer = None
        self.attempt, self._rival = rival, None
        if self.plan.index != self._number:
            failed = outcome == _TOOK_OVER and self.plan.errors
            self.plan.go_on(self._number, error=self.plan.errors[-1] if failed else None)
        self._place = rival.target
        self._forget()
        self._intake.start_over()
        self._ended(rival, outcome, rival.target if first is None else first.target)
        super().on_events(rival, self._held, self._held_size)

    def _drop(self, outcome: str, *, stop: str = "") -> None:
        """The first attempt goes on alone; `stop` says why the other one is stopped, if it runs."""
        rival, self._rival = self._rival, None
        if rival is None:
            return
        if stop:
            self._stop(rival, stop)
        self._ended(rival, outcome, rival.target)

    def _give_back(self, rival: Attempt) -> None:
        rival.session = None
        self._host.withdraw(rival)
        self._drop("failed")

    def _ended(self, rival: Attempt, outcome: str, free: Target) -> None:
        self._host.hedged(free, outcome.replace(" ", "_"))
        self._tell(f"hedge {rival.target.provider}/{rival.target.model} {outcome}")

    def _end(self, error: Exception | None, kill_reason: str) -> None:
        if self._patience is not None:
            self._patience.cancel()
        self._drop("lost", stop=kill_reason or "superseded")
        super()._end(error, kill_reason)
