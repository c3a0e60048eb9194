"""How many streams each API key has open."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from broker.errors import InferenceError


class OpenStreams:
    """Counts open streams by key and refuses those above the limit."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._open: dict[str, int] = {}

    def take(self, key_id: str) -> None:
        """One more; raises `too_many_streams`. Each needs its `free`."""
        count = self._open.get(key_id, 0)
        if count >= self._limit:
            raise InferenceError(
                "too_many_streams",
                f"this API key has {count} streams open, the most it may have; close one first",
                retry_after=1.0,
            )
        self._open[key_id] = count + 1

    def free(self, key_id: str) -> None:
        """One less."""
        count = self._open[key_id] - 1
        if count:
            self._open[key_id] = count
        else:
            del self._open[key_id]

    @contextlib.contextmanager
    def one(self, key_id: str) -> Iterator[None]:
        """Inside, one more."""
        self.take(key_id)
        try:
            yield
        finally:
            self.free(key_id)

    def total(self) -> int:
        """Open streams of all keys together."""
        return sum(self._open.values())
