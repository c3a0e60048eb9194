"""What the simulated provider allows under one key: calls at a time and in any second, for all."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

from workers.sim.knobs import Knobs
from workers.sim.script import Script, too_many

_WINDOW_S = 1.0
# Where its own headers go into an answer.
_BEFORE = b"x-request-id:"


@dataclass(frozen=True, slots=True)
class Limits:
    """Infinite ones are None."""

    open: int | None
    rate: int | None
    advertised: bool
    retry_after: float | None


def limits_of(knobs: Knobs) -> Limits | None:
    """What these knobs allow; None = everything."""
    if knobs.allow_open is None and knobs.allow_rate is None:
        return None
    return Limits(knobs.allow_open, knobs.allow_rate, knobs.advertise, knobs.retry_after)


class Allowed:
    """The calls of one key. Times are seconds of one monotonic clock."""

    def __init__(self) -> None:
        self.open = 0
        self._begun: deque[float] = deque()

    def begin(self, script: Script, limits: Limits, now: float) -> tuple[Script, bool]:
        """The script for a call that begins now, and whether it was let in: then `end` it."""
        while self._begun and self._begun[0] <= now - _WINDOW_S:
            self._begun.popleft()
        crowded = limits.open is not None and self.open >= limits.open
        wait_s = 0.0
        if limits.rate is not None and len(self._begun) >= limits.rate:
            wait_s = self._begun[-limits.rate] + _WINDOW_S - now
        let_in = not (crowded or wait_s)
        if let_in:
            self.open += 1
            if limits.rate is not None:
                self._begun.append(now)
        else:
            script = too_many(script.model)
        extra = b""
        if limits.advertised:
            extra = self._headers(limits, wait_s, now)
        if not let_in and limits.retry_after is not None:
            extra += b"retry-after: %b\r\n" % f"{limits.retry_after:g}".encode()
        return _with_headers(script, extra), let_in

    def end(self) -> None:
        """A call that was let in is over."""
        self.open -= 1

    def _headers(self, limits: Limits, wait_s: float, now: float) -> bytes:
        lines = []
        if limits.rate is not None:
            full_s = self._begun[-1] + _WINDOW_S - now if self._begun else 0.0
            left = max(0, limits.rate - len(self._begun))
            lines += [
                f"x-ratelimit-limit-requests: {limits.rate}",
                f"x-ratelimit-remaining-requests: {left}",
                f"x-ratelimit-reset-requests: {full_s * 1000:.0f}ms",
            ]
            if wait_s:
                lines.append(f"retry-after-ms: {wait_s * 1000:.0f}")
        if limits.open is not None:
            lines += [
                f"x-ratelimit-limit-concurrent: {limits.open}",
                f"x-ratelimit-remaining-concurrent: {max(0, limits.open - self.open)}",
            ]
        return "".join(f"{line}\r\n" for line in lines).encode()


def _with_headers(script: Script, extra: bytes) -> Script:
    if not (extra and script.frames):
        return script
    first = script.frames[0]
    wire = first.wire.replace(_BEFORE, extra + _BEFORE, 1)
    return replace(script, frames=(replace(first, wire=wire), *script.frames[1:]))
