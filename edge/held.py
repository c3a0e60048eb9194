"""How many bytes of requests an edge holds, of all keys and of each, and that it is not too many.

A request counts from its first byte, or from its announced length, until it is answered; what its
client does not read of the answer counts after that.
"""

from __future__ import annotations

from collections.abc import Callable

from broker.config import Limits
from broker.errors import InferenceError, refused

Refused = Callable[[str], object]


class Held:
    """See the module; `refused` is told why whenever there is no room."""

    def __init__(self, limits: Limits, refused: Refused = lambda _why: None) -> None:
        self._most = limits.held_bytes
        self._of_key = int(limits.held_bytes * limits.share_per_key)
        self._refused = refused
        self._by_key: dict[str, int] = {}
        self.total = 0

    def take(self, key_id: str, size: int) -> None:
        """Hold `size` more bytes; raises queue_full. There is room for one, whatever its size."""
        own = self._by_key.get(key_id, 0)
        if self.total and self.total + size > self._most:
            message = f"requests held here are {self.total} bytes, of at most {self._most}"
            raise self._full("bytes", message)
        if own and own + size > self._of_key:
            message = f"this API key's requests are {own} bytes, of at most {self._of_key}"
            raise self._full("key_bytes", message)
        self.total += size
        self._by_key[key_id] = own + size

    def hold(self, size: int) -> None:
        """Hold `size` more bytes of answers, or less below 0: these are there, room or not."""
        self.total += size

    def free(self, key_id: str, size: int) -> None:
        """Let go of as much."""
        self.total -= size
        left = self._by_key[key_id] - size
        if left:
            self._by_key[key_id] = left
        else:
            del self._by_key[key_id]

    def _full(self, why: str, message: str) -> InferenceError:
        self._refused(why)
        return refused(why, f"{message}; retry later, or send fewer at a time", 1.0)


class HeldRequest:
    """The bytes of one request."""

    __slots__ = ("_held", "_key_id", "_size")

    def __init__(self, held: Held, key_id: str) -> None:
        self._held = held
        self._key_id = key_id
        self._size = 0

    def grow(self, size: int) -> None:
        """There are so many more; raises queue_full."""
        if size:
            self._held.take(self._key_id, size)
            self._size += size

    def free(self) -> None:
        """It is answered. Idempotent."""
        if self._size:
            self._held.free(self._key_id, self._size)
            self._size = 0
