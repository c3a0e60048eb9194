"""How long the upstream call of an attempt may be silent; pure."""

from __future__ import annotations

from broker.routing import Target
from broker.settings import Limits
from broker.v1 import delivery_service_pb2


class Patience:
    """The time limits of attempts, made once for each case."""

    def __init__(self, limits: Limits) -> None:
        connect_ms = int(limits.connect_timeout_s * 1000)
        first = {
            (False, True): limits.first_token_timeout_s,
            (False, False): limits.last_first_token_timeout_s,
            (True, True): limits.reasoning_first_token_timeout_s,
            (True, False): limits.reasoning_first_token_timeout_s,
        }
        stall = {False: limits.stall_timeout_s, True: limits.reasoning_stall_timeout_s}
        self._limits = {
            (thinks, has_next, slow): delivery_service_pb2.TimeLimits(
                connect_ms=connect_ms,
                first_token_ms=int(first_s * 1000),
                stall_ms=int(stall[slow] * 1000),
            )
            for (thinks, has_next), first_s in first.items()
            for slow in (False, True)
        }

    def of(
        self, target: Target, *, has_next: bool, tools: bool, left_ms: int
    ) -> delivery_service_pb2.TimeLimits:
        """The limits of an attempt at `target`, `left_ms` before the deadline.

        Where nobody else is left to ask, a late first token is better than none. Models that reason
        fall silent while they do, and providers that send tool calls whole while they write one.
        What is not streamed gets half of the time, so that the next candidate has the other half.
        """
        limits = self._limits[target.thinks, has_next, target.thinks or tools]
        if not has_next or target.thinks:
            return limits
        halved = delivery_service_pb2.TimeLimits(whole_ms=left_ms // 2)
        halved.MergeFrom(limits)
        return halved
