"""What happens after an attempt failed: again, elsewhere, resume or give up; pure.

Driven by the edge for interactive requests, by workers for durable ones; lines of batches have more
time (`broker.batch.failures`). One attempt is one upstream call; whoever waits between attempts
holds no slot (R5).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from broker.errors import InferenceError, Retry
from broker.routing import Target

# Of somebody who waits: tries on one target, the first included.
MAX_TRIES = 3
# A Retry-After beyond this is not worth waiting for.
PATIENCE_S = 10.0
BACKOFF_S = 0.5
BACKOFF_CAP_S = 8.0
# Reasons after which an answer that was shown in part may be run again and compared (R4).
RESUMABLE = frozenset(
    {"worker_lost", "upstream_incomplete", "upstream_error", "upstream_unreachable", "stalled"}
)
# Answers that broke off and were run again, read by then or not.
MAX_RESUMES = 2
# Losses after which a job runs alone on a worker (R6).
LOSSES_BEFORE_ALONE = 2
# Reasons that are one key's alone: the next key is tried at once. True: the key is of no use to
# this request any more; False: it is, once the request has waited.
NEXT_KEY = {"upstream_credentials": True, "upstream_quota": True, "upstream_rate_limit": False}
# However many keys a fleet has.
MAX_KEYS = 32


@dataclass(slots=True)
class Plan:
    """Where one request stands: its targets in order, and what was tried."""

    targets: Sequence[Target]
    index: int = 0
    tries: int = 1
    resumes: int = 0
    losses: int = 0
    errors: list[InferenceError] = field(default_factory=list)
    # Fingerprints of the present provider's keys: refused ones, and those over their limits.
    dead_keys: list[str] = field(default_factory=list)
    tired_keys: list[str] = field(default_factory=list)
    # How often a line of a batch waited without using up a try (`broker.batch.failures`).
    limited: int = 0

    @property
    def target(self) -> Target:
        """Where the present attempt goes."""
        return self.targets[self.index]

    @property
    def has_next(self) -> bool:
        """Whether another candidate is left."""
        return self.index + 1 < len(self.targets)

    @property
    def larger(self) -> int:
        """The place of the next candidate whose window is known to be larger; 0 = there is none."""
        window = self.target.window
        places = range(self.index + 1, len(self.targets)) if window else ()
        return next((n for n in places if self.targets[n].window > window), 0)

    def go_on(self, place: int = 0) -> None:
        """Turn to the next candidate, or to the one at `place`."""
        self.index = place or self.index + 1
        self.tries = 1
        self.resumes = 0
        self.dead_keys.clear()
        self.tired_keys.clear()

    def go_round(self) -> None:
        """Begin with the first candidate again."""
        self.index = -1
        self.go_on()


@dataclass(frozen=True, slots=True)
class Again:
    """Publish the next attempt after `delay_s`; `resume`: compare it with what was shown."""

    delay_s: float = 0.0
    resume: bool = False


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Tell the caller."""

    error: InferenceError


Step = Again | GiveUp


def after_failure(
    plan: Plan, error: InferenceError, *, shown: bool, resumable: bool, left_s: float, jitter: float
) -> Step:
    """The step after a provider's failure. `left_s` is the time to the deadline, `jitter` 0..1."""
    plan.errors.append(error)
    if shown:
        return _resume(plan, error, resumable=resumable)
    judged = over_keys(plan, error)
    if judged is None:
        return Again()
    if judged.row.retry is Retry.SAME and plan.tries < MAX_TRIES and not judged.exhausted:
        wait = delay(plan.tries, judged.retry_after, jitter)
        if wait is not None and wait < left_s:
            plan.tries += 1
            # Broken off before anybody read it, it was called and paid for all the same.
            plan.resumes += judged.phase == "content"
            plan.tired_keys.clear()
            return Again(wait)
    return elsewhere(plan, judged)


def over_keys(plan: Plan, error: InferenceError) -> InferenceError | None:
    """The failure that counts once the keys are looked at; None: another key is tried at once."""
    if not (error.key and error.reason in NEXT_KEY):
        return error
    (plan.dead_keys if NEXT_KEY[error.reason] else plan.tired_keys).append(error.key)
    if error.other_keys and len(plan.dead_keys) + len(plan.tired_keys) < MAX_KEYS:
        return None
    if plan.tired_keys:
        # Not all are refused: the request may wait for those that are over their limits.
        tired = (e for e in reversed(plan.errors) if e.key == plan.tired_keys[-1])
        return next(tired, error)
    return error


def elsewhere(plan: Plan, error: InferenceError) -> Step:
    """The next candidate, where another one may do better."""
    retry = error.row.retry
    if retry in {Retry.SAME, Retry.NEXT} and plan.has_next:
        plan.go_on()
        return Again()
    if retry is Retry.LARGER and plan.larger:
        plan.go_on(plan.larger)
        return Again()
    return GiveUp(error)


def after_loss(plan: Plan, *, shown: bool, resumable: bool, alone: bool) -> Step:
    """The step after a worker was lost with the job; `alone`: nothing else ran there (R3, R6)."""
    plan.losses += 1
    error = InferenceError(
        "worker_lost",
        "the worker that ran this request was lost",
        provider=plan.target.provider,
        model=plan.target.model,
        phase="content" if shown else "",
    )
    plan.errors.append(error)
    if alone:
        return GiveUp(
            InferenceError(
                "poison",
                f"{plan.losses} workers were lost while they ran this request, the last one "
                "running nothing else; it was put aside as a dead letter",
            )
        )
    return _resume(plan, error, resumable=resumable) if shown else Again()


def after_hand_back(*, shown: bool, resumable: bool) -> Step:
    """The step after a worker that drains gave the job up: nobody's failure."""
    if shown and not resumable:
        return GiveUp(InferenceError("worker_lost", "the worker was shut down", phase="content"))
    return Again(resume=shown)


def out_of_time(plan: Plan, *, running: bool, shown: bool) -> InferenceError:
    """What the caller is told when the deadline passes."""
    if not running:
        message = "no worker was free before the deadline; retry later or allow more time"
        return InferenceError("queue_timeout", message, phase="queued")
    phase = "content" if shown else "before_content"
    error = InferenceError("deadline", "the deadline passed", phase=phase)
    error.provider, error.model = plan.target.provider, plan.target.model
    return error


def _resume(plan: Plan, error: InferenceError, *, resumable: bool) -> Step:
    if not resumable or error.reason not in RESUMABLE or plan.resumes >= MAX_RESUMES:
        return GiveUp(error)
    plan.resumes += 1
    return Again(resume=True)


def delay(tries: int, retry_after: float | None, jitter: float) -> float | None:
    """Seconds to wait before the next try here; None when that is too long."""
    if retry_after is not None:
        return retry_after if retry_after <= PATIENCE_S else None
    return min(BACKOFF_S * 2.0 ** (tries - 1), BACKOFF_CAP_S) * (0.8 + 0.4 * jitter)
