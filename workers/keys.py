"""Which of the operator's keys an attempt is made with, by what became of earlier ones; pure.

A request goes to the key that has the fewest calls in flight; where several have, the same request
begins with the same one in every worker that has the same keys. A key that was refused or is over
its limit is left alone for a while, and a request goes to none that failed it before as long as
there is another.
A key is spoken of by its fingerprint.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from broker.dispatch import NEXT_KEY
from broker.errors import InferenceError
from broker.v1 import job_pb2

# How long a key is left alone that was refused or has no money left, in seconds; and one that is
# over its limit where the provider does not say for how long.
REFUSED_S = 60.0
BUSY_S = 5.0
# No provider is believed for longer: limits are lifted early, too.
LONGEST_S = 3600.0
# Models that keys rest for are remembered up to this number; then all is forgotten.
_MOST_RESTS = 10_000
_EVERY_MODEL = ""
_KEYLESS = (None,)
_NO_CALLS: Mapping[str, int] = {}


@dataclass(frozen=True, slots=True)
class Key:
    """One key; `fingerprint` names it in logs and records, and tells nothing of it."""

    secret: str
    fingerprint: str


def fingerprint(secret: str) -> str:
    """Eight hex digits of the key's SHA-256."""
    return hashlib.sha256(secret.encode()).hexdigest()[:8]


class Keys:
    """The keys of one provider in one process. Times are seconds of one monotonic clock."""

    def __init__(self, secrets: Sequence[str]) -> None:
        self._keys = [Key(secret, fingerprint(secret)) for secret in dict.fromkeys(secrets)]
        # When the rest of (fingerprint, model) ends.
        self._rests: dict[tuple[str, str], float] = {}
        # Called with the fingerprint and the seconds when a key is of no use for any model.
        self.on_rest: Callable[[str, float], None] = lambda _key, _seconds: None

    @property
    def all(self) -> Sequence[Key]:
        """All of them."""
        return self._keys

    def turn(
        self,
        request_id: str,
        model: str,
        avoid: Collection[str],
        now: float,
        running: Mapping[str, int] = _NO_CALLS,
    ) -> Sequence[Key | None]:
        """The keys in the order in which an attempt may be made with them; None is no key.

        `running` tells how many calls each makes for this model now: a slow one has more.
        """
        keys = self._keys
        if len(keys) < 2:
            return keys or _KEYLESS
        first = zlib.crc32(request_id.encode()) % len(keys)
        turn = keys[first:] + keys[:first]
        # It is stable, so that equal keys keep their turn.
        return sorted(
            turn,
            key=lambda key: (
                key.fingerprint in avoid,
                self._rested(key, model, now),
                running.get(key.fingerprint, 0),
            ),
        )

    def rest(self, key: str, model: str, seconds: float, now: float) -> None:
        """Another worker found that a key is to be left alone; an empty model is every one."""
        if len(self._rests) >= _MOST_RESTS:
            self._rests.clear()
        place = key, model
        self._rests[place] = max(now + min(seconds, LONGEST_S), self._rests.get(place, 0.0))

    def choose(self, request_id: str, model: str, avoid: Collection[str], now: float) -> Key | None:
        """The key for an attempt, None where there are no keys.

        `avoid` are fingerprints of keys that failed this request. Where all are to be avoided or
        rest, it is the one that may soonest be used: the provider has the last word.
        """
        return self.turn(request_id, model, avoid, now)[0]

    def failed(
        self, key: Key, error: InferenceError, model: str, avoid: Collection[str], now: float
    ) -> None:
        """Take note of how a call with `key` failed, and say in `error` what other keys there are.

        `error.key` is set to the fingerprint, `error.other_keys` to the number of keys that may be
        used at once for this request. Where there is none and all are over their limits,
        `error.retry_after` becomes the time until the first of them may be used.
        """
        rest = _rest(error)
        if rest is None:
            return
        seconds, whole = rest
        self.rest(key.fingerprint, _EVERY_MODEL if whole else model, seconds, now)
        if whole:
            self.on_rest(key.fingerprint, seconds)
        others = {
            other.fingerprint: self._rested(other, model, now)
            for other in self._keys
            if other is not key
        }
        error.key = key.fingerprint
        error.other_keys = sum(end == now and other not in avoid for other, end in others.items())
        resting = [end - now for end in others.values() if end > now]
        if resting and not error.other_keys and error.retry_after is not None:
            error.retry_after = min(error.retry_after, *resting)

    def worked(self, key: Key, model: str) -> None:
        """A call with `key` was answered: what was held against it is over."""
        if self._rests:
            self._rests.pop((key.fingerprint, model), None)
            self._rests.pop((key.fingerprint, _EVERY_MODEL), None)

    def hidden(self, text: str) -> str:
        """The text without any of them: some providers repeat the key that they refuse."""
        for key in self._keys:
            text = text.replace(key.secret, "[hidden]")
        return text

    def _rested(self, key: Key, model: str, now: float) -> float:
        """When the key may be used, at the earliest `now`."""
        ends = now
        for place in ((key.fingerprint, model), (key.fingerprint, _EVERY_MODEL)):
            end = self._rests.get(place)
            if end is not None and end <= now:
                del self._rests[place]
            elif end is not None:
                ends = max(ends, end)
        return ends


class Turn:
    """The key that an attempt is made with, and those that take its place on the way.

    `callers` is a key of the caller's own, beside which there is no other; `chosen` are one or none
    that was chosen for the first call.
    """

    def __init__(
        self,
        keys: Keys,
        job: job_pb2.Job,
        callers: str,
        now: float,
        chosen: Sequence[Key | None] = (),
    ) -> None:
        self._keys = keys
        self._request_id = job.request_id
        self._model = job.route.model
        self._callers = callers
        self._avoid = list(job.avoid_keys)
        self.key = None if callers else chosen[0] if chosen else self._chosen(now)

    @property
    def own(self) -> bool:
        """Whether the key is the caller's: nothing that becomes of it concerns others."""
        return bool(self._callers)

    @property
    def secret(self) -> str:
        """What calls are made with; empty where there is no key."""
        return self._callers or (self.key.secret if self.key is not None else "")

    def hidden(self, text: str) -> str:
        """The text without any of the keys, the caller's included."""
        if self._callers:
            text = text.replace(self._callers, "[hidden]")
        return self._keys.hidden(text)

    def worked(self) -> None:
        """The attempt was answered."""
        if self.key is not None:
            self._keys.worked(self.key, self._model)

    def failed(self, error: InferenceError, now: float) -> None:
        """The attempt failed so; `Keys.failed` says what becomes of `error`."""
        if self.key is not None:
            self._keys.failed(self.key, error, self._model, self._avoid, now)

    def another(self, used: Key | None, error: InferenceError, now: float) -> bool:
        """Whether a call that failed so with the key `used` is to be made with the present one.

        That is another one where there is one that may be used at once.
        """
        if used is None or error.reason not in NEXT_KEY:
            return False
        if used is not self.key:
            return True  # another call of the attempt came first
        self._keys.failed(used, error, self._model, self._avoid, now)
        if not error.other_keys:
            return False
        self._avoid.append(used.fingerprint)
        self.key = self._chosen(now)
        return True

    def _chosen(self, now: float) -> Key | None:
        return self._keys.choose(self._request_id, self._model, self._avoid, now)


def _rest(error: InferenceError) -> tuple[float, bool] | None:
    """Seconds that a key which failed so rests, and whether for all models; None: it does not.

    Limits and permissions are a model's, the rest is the account's.
    """
    if error.reason == "upstream_rate_limit":
        return min(BUSY_S if error.retry_after is None else error.retry_after, LONGEST_S), False
    if error.reason in {"upstream_credentials", "upstream_quota"}:
        return REFUSED_S, error.upstream_status != 403
    return None
