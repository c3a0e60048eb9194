"""What attempts that no edge grants are made with: those of the lanes for durable work."""

from __future__ import annotations

from dataclasses import dataclass, field

from broker import timeouts
from broker.bus.queue import Publisher
from broker.bus.recorder import Recorder
from broker.catalog.bill import Bill
from broker.settings import Limits
from broker.v1 import delivery_service_pb2
from workers.fetch import Fetcher
from workers.gate import Gate
from workers.keys import Keys
from workers.pace import Paces
from workers.provider import Provider
from workers.standstill import Standstill
from workers.upstream import Upstream


@dataclass(frozen=True, slots=True)
class Tools:
    """What attempts are made with, and who makes them."""

    worker: str
    provider: Provider
    upstream: Upstream
    keys: Keys
    fetcher: Fetcher
    publisher: Publisher
    recorder: Recorder
    limits: Limits
    bill: Bill
    gate: Gate
    standstill: Standstill
    timeouts: timeouts.ByName = field(default_factory=dict)
    # When each model answered a line here last, by the loop's clock.
    answered: dict[str, float] = field(default_factory=dict)
    # How fast models answered lines here.
    paces: Paces = field(default_factory=Paces)

    def time_limits(self, model: str) -> delivery_service_pb2.TimeLimits:
        """The limits of a call that nobody watches: those of models that reason, unless said."""
        limits, own = self.limits, timeouts.of(self.timeouts, self.provider.name, model)
        first_s = own.first_token_s or limits.reasoning_first_token_timeout_s
        stall_s = own.stall_s or limits.reasoning_stall_timeout_s
        return delivery_service_pb2.TimeLimits(
            connect_ms=int((own.connect_s or limits.connect_timeout_s) * 1000),
            first_token_ms=int(first_s * 1000),
            stall_ms=int(stall_s * 1000),
            whole_ms=int((own.total_s or 0) * 1000),
            total_ms=int((own.total_s or 0) * 1000),
        )
