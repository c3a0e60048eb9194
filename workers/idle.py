"""How long a provider may send bytes that say nothing; the time comes in.

Such are comments and pings that keep a stream open. Silence itself is the connection's to notice.
"""

from __future__ import annotations

from broker.errors import InferenceError
from workers.failures import Limits

# So many bytes within a limit are no keep-alive: an event that is large, or one of the many that
# the hub has no use for.
_ALIVE = 4096


class Idle:
    """The limits of one answer, from the first byte without an event to the next event.

    `since` is when that was, None after an event.
    """

    __slots__ = ("_heard", "_limits", "_name", "since")

    def __init__(self, limits: Limits, name: str) -> None:
        self._limits = limits
        self._name = name
        self._heard = 0
        self.since: float | None = None

    def heard(self, size: int, now: float, *, content: bool) -> None:
        """Bytes came and no event: raises `InferenceError` when that has gone on for too long.

        Before `content` the limit is the first token's, then that of a pause.
        """
        self._heard += size
        if self.since is None or self._heard > _ALIVE:
            self.since, self._heard = now, 0
            return
        limit = self._limits.stall_s if content else self._limits.first_byte_s
        if limit and now - self.since > limit:
            raise InferenceError(
                "stalled" if content else "first_token_timeout",
                f"{self._name} sent nothing but signs of life for {limit:g} s",
            )
