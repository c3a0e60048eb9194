"""What an answer takes: credit for its worker (R9), and room while it is collected whole."""

from __future__ import annotations

from broker.errors import InferenceError
from edge.attempt import Attempt

# An answer that is collected whole may not grow beyond this.
MAX_ANSWER_BYTES = 64 << 20
# 2,048 vectors of 3,072 numbers are 140 MB of JSON.
MAX_VECTORS_BYTES = 192 << 20
# Consumed bytes are credited back in portions of this size.
CREDIT_PORTION = 128 << 10


class Intake:
    """Bytes of one attempt's events: what came, what of it was consumed, what is owed for it."""

    __slots__ = ("_collected", "_most", "_owed", "_unread")

    def __init__(self, *, vectors: bool) -> None:
        self._most = MAX_VECTORS_BYTES if vectors else MAX_ANSWER_BYTES
        self.start_over()

    def start_over(self) -> None:
        """Another attempt begins."""
        self._unread = self._owed = self._collected = 0

    def came(self, size: int) -> None:
        """Events of `size` bytes came."""
        self._unread += size

    def consumed(self, attempt: Attempt | None) -> None:
        """All that came was consumed: give credit for it, in portions."""
        self._owed += self._unread
        self._unread = 0
        if self._owed >= CREDIT_PORTION and attempt is not None and attempt.session:
            attempt.session.credit(self._owed)
            self._owed = 0

    def collected(self, size: int) -> InferenceError | None:
        """Events of `size` bytes were put to a whole answer: the error when it is too large."""
        self._collected += size
        if self._collected <= self._most:
            return None
        message = f"the answer is larger than {self._most >> 20} MiB"
        if self._most == MAX_VECTORS_BYTES:
            message += ": ask for fewer vectors at a time, or for base64 in place of numbers"
            return InferenceError("invalid_request", message, param="input")
        return InferenceError("upstream_error", message)
