"""The places of a worker's gate: what the leader allows each, and what it is to hear of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

from broker.capacity import ANY, Allowance, Seen, Share
from broker.limits import Configured
from workers.keys import Keys
from workers.place import NO_LIMIT, Place

# Places that nobody used for so long are forgotten when there are so many, so often at most.
_MOST, _FORGET_S, _FORGET_EVERY_S = 1000, 60.0, 1.0
# A report tells of so many.
_MOST_SEEN = 200


class Places:
    """See the module. `limits` bind until the leader has divided them; `now` is in seconds."""

    def __init__(
        self, keys: Keys, limits: Configured | None, reserve: float, now: Callable[[], float]
    ) -> None:
        self._keys = keys
        self._reserve = reserve
        self._now = now
        self._places: dict[tuple[str, str], Place] = {}
        # Those of them that anything limits.
        self.limited: set[Place] = set()
        # The shares of places that nobody used yet, by key.
        self._defaults: dict[str, Share] = {}
        if limits is not None and limits != Configured():
            fingerprints = [key.fingerprint for key in keys.all] or [""]
            self._defaults = dict.fromkeys(fingerprints, _whole(limits))
        self._told: dict[tuple[str, str], tuple[int, Share]] = {}
        self._key_news: dict[str, float] = {}
        # Lines that wait outside, by model.
        self._outside: Mapping[str, int] = {}
        self._forget_at = -math.inf

    def __iter__(self) -> Iterator[Place]:
        return iter(self._places.values())

    def of(self, key: str, model: str) -> Place:
        """The place of a key and model; there is one from now on."""
        place = self._places.get((key, model))
        return self._begin(key, model) if place is None else place

    def _begin(self, key: str, model: str) -> Place:
        now = self._now()
        if len(self._places) >= _MOST and now >= self._forget_at:
            self._forget(now)
        _, share = self._told.get((key, model), (0, self._defaults.get(key, NO_LIMIT)))
        place = Place(key, model, share, reserve=self._reserve, now=now, limited=self.limited)
        place.outside = self._outside
        self._places[key, model] = place
        return place

    def line_up(self, waiting: Mapping[str, int]) -> None:
        """So many lines of each model wait outside."""
        self._outside = waiting
        for place in self._places.values():
            place.outside = waiting

    # What the leader says.

    def told(self, allowance: Allowance, worker: str) -> Place | None:
        """Take what it allows; returns the place that this changes, if it is one."""
        key, model = allowance.key, allowance.model
        known = self._told.get((key, model))
        if known is not None and allowance.epoch < known[0]:
            return None  # from one that was replaced
        share = allowance.shares.get(worker)
        if share is None:
            share = _stranger(allowance)
        self._told[key, model] = allowance.epoch, share
        if allowance.rest_s:
            self._keys.rest(key, model, allowance.rest_s, self._now())
        if model == ANY:
            self._defaults[key] = share
            return None
        place = self.of(key, model)
        place.told(share)
        if allowance.rest_s:
            place.rest(allowance.rest_s, self._now())
        return place

    def forgotten(self, key: str, model: str) -> Place | None:
        """It allows everything again; returns the place that this changes, if it is one."""
        self._told.pop((key, model), None)
        if model == ANY:
            self._defaults.pop(key, None)
            return None
        place = self._places.get((key, model))
        if place is not None:
            place.told(self._defaults.get(key, NO_LIMIT))
        return place

    # What it is to hear.

    def key_rests(self, key: str, seconds: float) -> None:
        """A key is of no use for any model."""
        self._key_news[key] = seconds

    def report(self) -> list[Seen]:
        """What happened since the last report, at the places where anything did.

        Of many, those first where others should hear of it; what is left is told the next time.
        """
        now = self._now()
        told = [Seen(key, ANY, rest_s=seconds) for key, seconds in self._key_news.items()]
        self._key_news.clear()
        places = [place for place in self._places.values() if place.eventful]
        places.sort(key=lambda place: (not (place.limited or place.rest_news), -place.started))
        for place in places[:_MOST_SEEN]:
            told.append(place.seen(now))
            place.clear(now)
        return told

    def _forget(self, now: float) -> None:
        self._forget_at = now + _FORGET_EVERY_S
        for at, place in list(self._places.items()):
            if not (place.running or place.waiting) and place.used_at < now - _FORGET_S:
                del self._places[at]
                self.limited.discard(place)
                if place.timer is not None:
                    place.timer.cancel()


def _whole(limits: Configured) -> Share:
    """All that the settings allow: until the leader has divided it."""
    tokens = limits.tokens_per_minute
    return Share(
        limits.concurrent,
        limits.concurrent,
        limits.requests_per_second,
        tokens / 60 if tokens is not None else None,
    )


def _stranger(allowance: Allowance) -> Share:
    """For a worker that the leader has not met yet: little, where there is a limit."""
    workers = len(allowance.shares) + 1
    return Share(
        1 if allowance.slots is not None else None,
        0 if allowance.slots is not None else None,
        allowance.rate / workers if allowance.rate is not None else None,
        allowance.tokens / workers if allowance.tokens is not None else None,
    )
