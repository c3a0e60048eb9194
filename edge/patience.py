"""How long the upstream call of an attempt may take, and be silent; pure.

The narrowest word counts: the request's, the model's, the provider's, then everybody's.
"""

from __future__ import annotations

from itertools import product

from broker.routing import Target
from broker.settings import Limits
from broker.timeouts import NONE, ByName
from broker.v1 import delivery_service_pb2
from edge.work import Work

# An answer may take so long for each token that is asked for.
_TOKEN_MS = 40
_EITHER = (False, True)


class Patience:
    """The time limits of attempts, made once for each case."""

    def __init__(self, limits: Limits, timeouts: ByName) -> None:
        self._whole_ms = {
            False: _ms(limits.whole_timeout_s),
            True: _ms(limits.reasoning_whole_timeout_s),
        }
        self._named = frozenset(timeouts)
        # By name, whether the model reasons, another is left, and it may fall silent.
        self._limits = {
            (name, thinks, has_next, slow): _limits(
                limits, timeouts, name, thinks=thinks, has_next=has_next, slow=slow
            )
            for name in ("", *timeouts)
            for thinks, has_next, slow in product(_EITHER, _EITHER, _EITHER)
        }

    def of(
        self,
        target: Target,
        work: Work,
        *,
        has_next: bool,
        left_ms: int,
    ) -> delivery_service_pb2.TimeLimits:
        """The limits of an attempt to have `work` done at `target`, `left_ms` before the deadline.

        Where nobody else is left to ask, a late first token is better than none. Models that reason
        fall silent while they do, and providers that send tool calls whole while they write one.
        What is not streamed shows nothing until it is there: it is left to the next candidate after
        what usual answers take, and `lengthy` work (pictures, hosted tools) takes longer. The next
        candidate has half of the time left at least.
        """
        slow, platform = target.thinks or work.tools, work.platform
        name = self._name(target) if self._named else ""
        limits = self._limits[name, target.thinks, has_next, slow]
        asked = (
            platform.connect_timeout_ms
            or platform.first_token_timeout_ms
            or platform.stall_timeout_ms
        )
        if not (has_next or asked):
            return limits
        own = delivery_service_pb2.TimeLimits()
        own.CopyFrom(limits)
        if has_next:
            usual = self._whole_ms[target.thinks or work.lengthy]
            usual = max(usual, work.output_tokens * _TOKEN_MS)
            own.whole_ms = min(limits.whole_ms or usual, left_ms // 2)
            own.first_token_ms = min(limits.first_token_ms, left_ms // 2)
        if asked:
            own.connect_ms = platform.connect_timeout_ms or own.connect_ms
            own.first_token_ms = platform.first_token_timeout_ms or own.first_token_ms
            own.stall_ms = platform.stall_timeout_ms or own.stall_ms
        return own

    def _name(self, target: Target) -> str:
        """Under which of the names that somebody said something of it stands; "" = none."""
        name = f"{target.provider}/{target.model}"
        if name in self._named:
            return name
        return target.provider if target.provider in self._named else ""


def _limits(
    limits: Limits, timeouts: ByName, name: str, *, thinks: bool, has_next: bool, slow: bool
) -> delivery_service_pb2.TimeLimits:
    own = timeouts.get(name, NONE) if "/" in name else NONE
    wide = timeouts.get(name.partition("/")[0], NONE)
    stall_s = limits.reasoning_stall_timeout_s if slow else limits.stall_timeout_s
    if thinks:
        first_s = limits.reasoning_first_token_timeout_s
    else:
        first_s = limits.first_token_timeout_s if has_next else limits.last_first_token_timeout_s
    # What holds for a whole provider has those of its models in mind that do not think for minutes.
    first_s = own.first_token_s or _wide(wide.first_token_s, first_s, patient=thinks)
    stall_s = own.stall_s or _wide(wide.stall_s, stall_s, patient=slow)
    connect_ms = _ms(own.connect_s or wide.connect_s or limits.connect_timeout_s)
    total_ms = _ms(own.total_s or wide.total_s or 0)
    return delivery_service_pb2.TimeLimits(
        connect_ms=connect_ms,
        first_token_ms=min(_ms(first_s), total_ms or _ms(first_s)),
        stall_ms=_ms(stall_s),
        whole_ms=total_ms,
        total_ms=total_ms and total_ms + connect_ms,
    )


def _wide(said: float | None, usual: float, *, patient: bool) -> float:
    if said is None:
        return usual
    return max(said, usual) if patient else said


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
