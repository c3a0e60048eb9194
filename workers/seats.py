"""The right to make calls: a seat for each, the first of an attempt taken before it is claimed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol, Self

from broker.errors import InferenceError
from workers.keys import Key
from workers.place import Place

# Headers are read this often at most: they hardly change.
_READ_S = 0.01


class Host(Protocol):
    """What seats tell and ask the gate."""

    def now(self) -> float:
        """Seconds of a monotonic clock."""

    def rest(self, place: Place, seconds: float) -> None:
        """Leave a place alone."""

    def limited(self, place: Place, retry_after: float | None, *, spent: bool) -> None:
        """The provider refused a call as too many."""

    def serve(self, place: Place) -> None:
        """Let in who may go now."""

    async def another(self, key: Key | None, model: str, lane: str, within_s: float) -> Seat:
        """The seat of a further call. Raises `InferenceError` deadline."""


class Seat:
    """The right to make one call, which is made inside of it; `close` it otherwise."""

    __slots__ = ("_began", "_gate", "_lane", "_open", "_place", "_rest", "_spent", "key")

    def __init__(self, gate: Host, place: Place, key: Key | None, lane: str) -> None:
        self.key = key
        self._gate = gate
        self._place = place
        self._lane = lane
        self._began = 0.0
        self._open = True
        self._spent = False
        self._rest = 0.0

    def __enter__(self) -> Self:
        self._began = self._gate.now()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: object
    ) -> None:
        place = self._place
        if exc is None:
            place.peak = max(place.peak, place.running)
            place.answered += 1
            place.answered_s += self._gate.now() - self._began
        elif isinstance(exc, InferenceError) and exc.reason == "upstream_rate_limit":
            rest = exc.retry_after
            if rest is None and self._spent:
                rest = self._rest
            self._gate.limited(place, rest, spent=self._spent)
        self.close()

    def heard(self, headers: Mapping[str, str], *, refused: bool = False) -> None:
        """An answer's headers came."""
        now = self._gate.now()
        if not refused and now - self._place.read_at < _READ_S:
            return
        self._place.read_at = now
        rest = self._place.quotas.read(headers, now)
        self._spent = rest is not None
        if not refused:
            self._gate.rest(self._place, rest or 0.0)
        else:
            self._rest = rest or 0.0  # unless the error says it better

    def settle(self, tokens: float) -> None:
        """The call used so many tokens."""
        self._place.settle(tokens)

    def close(self) -> None:
        """The call is over, or will not be made. Idempotent."""
        if not self._open:
            return
        self._open = False
        if not self._began:
            self._place.give_back()
        self._place.end(self._lane)
        self._gate.serve(self._place)


class _Uncounted:
    """A call with a caller's own key, which is nobody else's concern."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def heard(self, headers: Mapping[str, str], *, refused: bool = False) -> None:
        """Not of ours."""


_UNCOUNTED = _Uncounted()


class Seats:
    """The calls of one attempt: the first has a seat already, each other one waits for its own."""

    def __init__(self, gate: Host | None = None, model: str = "", lane: str = "") -> None:
        self._gate = gate
        self._model = model
        self._lane = lane
        self._first: Seat | None = None
        self._settling: Seat | None = None
        # Why no call may be made at all.
        self.refusal: InferenceError | None = None

    def reserve(self, seat: Seat) -> None:
        """The seat of the first call."""
        self._first = self._settling = seat

    @property
    def key(self) -> Key | None:
        """The key of the first call."""
        return self._first.key if self._first is not None else None

    @property
    def chosen(self) -> bool:
        """Whether there is a seat, and with it a key."""
        return self._first is not None

    def check(self) -> None:
        """Raise why no call may be made, if there is a reason."""
        if self.refusal is not None:
            raise self.refusal

    def release(self) -> None:
        """No call is made with the first seat any more: none, or one with a caller's own key."""
        if self._first is not None:
            self._first.close()
            self._first = None

    async def next(
        self, key: Key | None, *, own: bool, within_s: float = math.inf
    ) -> Seat | _Uncounted:
        """The seat of the next call, with this key or one of the caller's own.

        Raises `InferenceError` deadline when there is none within so many seconds.
        """
        first, self._first = self._first, None
        if first is not None:
            if not own and first.key is key:
                return first
            first.close()
        if self._gate is None or own:
            return _UNCOUNTED
        seat = await self._gate.another(key, self._model, self._lane, within_s)
        self._settling = self._settling or seat
        return seat

    def settle(self, tokens: float) -> None:
        """All calls together used so many tokens."""
        if self._settling is not None and tokens:
            self._settling.settle(tokens)
