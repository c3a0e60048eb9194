"""What attempts that no edge grants are made with: those of the lanes for durable work."""

from __future__ import annotations

from dataclasses import dataclass, field

from broker.bus.queue import Publisher
from broker.bus.recorder import Recorder
from broker.catalog.bill import Bill
from broker.settings import Limits
from broker.v1 import delivery_service_pb2
from workers.fetch import Fetcher
from workers.gate import Gate
from workers.keys import Keys
from workers.provider import Provider
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
    # When each model answered a line here last, by the loop's clock.
    answered: dict[str, float] = field(default_factory=dict)

    def time_limits(self) -> delivery_service_pb2.TimeLimits:
        """The limits of a call that nobody watches: no other provider could be asked sooner."""
        limits = self.limits
        return delivery_service_pb2.TimeLimits(
            connect_ms=int(limits.connect_timeout_s * 1000),
            first_token_ms=int(limits.reasoning_first_token_timeout_s * 1000),
            stall_ms=int(limits.reasoning_stall_timeout_s * 1000),
        )
