"""Writes down how attempts went: the charge of an answer, and what routes learn of targets."""

from __future__ import annotations

import asyncio

from broker import routing
from broker.bus.recorder import Recorder
from broker.catalog.bill import Bill
from broker.errors import InferenceError
from broker.health import Health
from broker.translate.router_metadata import metadata
from broker.v1 import event_pb2, record_pb2
from broker.wallclock import now_ms
from edge.admission import Admission
from edge.attempt import Attempt
from edge.exchange import Exchange
from edge.outlet import route_of


class Books:
    """See the module. A caller's own key tells nothing of ours, and heeds nothing of them."""

    def __init__(
        self, bill: Bill, recorder: Recorder, health: Health, admission: Admission
    ) -> None:
        self._bill = bill
        self._recorder = recorder
        self._health = health
        self._admission = admission
        self._loop = asyncio.get_running_loop()

    def charge(
        self,
        exchange: Exchange,
        attempt: Attempt,
        started: event_pb2.Started | None,
        completed: event_pb2.Completed,
    ) -> None:
        """Record the one charge of an answered request (R16), and tell its cost."""
        target, platform = attempt.target, exchange.work.platform
        cost = self._bill.cost(target.provider, target.model, completed)
        if cost is not None:
            completed.cost.CopyFrom(cost)
        self._admission.answered(target, self._loop.time() - attempt.published_at)
        if platform.tell_routing and exchange.decision is not None:
            byok = target.provider in exchange.provider_keys
            completed.routing = metadata(
                exchange.decision, exchange.plan, attempt.number, route=exchange.route, byok=byok
            )
        if not exchange.provider_keys:
            self._health.worked(target, attempt.published_at)
        self._recorder.charge(
            record_pb2.Charge(
                request_id=exchange.request_id,
                attempt=attempt.number,
                tenant=exchange.key.tenant,
                route=route_of(target),
                answered_model=started.model if started is not None else "",
                usage=completed.usage,
                charged_at_ms=now_ms(),
                tags=platform.tags,
                signature=platform.signature,
                cost=cost,
                key=exchange.key.id,
            )
        )

    def failed(self, exchange: Exchange, attempt: Attempt, error: InferenceError) -> None:
        """A provider failed an attempt: routes of others may avoid it."""
        if not exchange.provider_keys:
            self._health.failed(attempt.target, error, attempt.published_at)

    def resting(self, exchange: Exchange, target: routing.Target) -> bool:
        """Whether `target` is to be left alone; if it was and is no more, this is its probe."""
        if exchange.provider_keys:
            return False
        if self._health.state(target.provider, target.model).resting:
            return True
        self._health.chosen(target)
        return False

    def accepted(self, exchange: Exchange) -> None:
        """A request goes where it is to go first; it may be the one probe of a breaker there."""
        if not exchange.provider_keys:
            self._health.chosen(exchange.plan.target)
