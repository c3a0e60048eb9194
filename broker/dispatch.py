"""What happens after an attempt failed: again, elsewhere, resume or give up; pure.

Driven by the edge for interactive requests, by workers for durable ones; lines of batches have more
time (`broker.batch.failures`). One attempt is one upstream call; whoever waits between attempts
holds no slot (R5).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from broker.errors import Fault, InferenceError, Retry
from broker.routing import Target

# Of somebody who waits: tries on one target, the first included.
MAX_TRIES = 3
# A Retry-After beyond this is not worth waiting for.
PATIENCE_S = 10.0
BACKOFF_S = 0.5
BACKOFF_CAP_S = 8.0
# A call that ends this much before the deadline had a limit of its own.
_A_MOMENT_S = 1.0
# Reasons after which an answer that was shown in part may be run again and compared (R4): it broke
# off, or the next run did not begin.
RESUMABLE = frozenset(
    {
        *("worker_lost", "upstream_incomplete", "upstream_error", "upstream_unreachable"),
        *("upstream_overloaded", "upstream_rate_limit", "connect_timeout", "first_token_timeout"),
        *("stalled", "queue_full"),
    }
)
# Answers that broke off and were run again, read by then or not.
MAX_RESUMES = 2
# Tries of such a run to begin: nobody else can be asked for the rest of an answer.
MAX_RERUN_TRIES = 4
# How often workers may give a request back at one target: they leave, and nobody is to blame.
MAX_HAND_BACKS = 8
# Losses after which a job runs alone on a worker (R6).
LOSSES_BEFORE_ALONE = 2
# Reasons that are one key's alone: the next key is tried at once. True: the key is of no use to
# this request any more; False: it is, once the request has waited.
NEXT_KEY = {"upstream_credentials": True, "upstream_quota": True, "upstream_rate_limit": False}
# However many keys a fleet has.
MAX_KEYS = 32
# Of several candidates' errors the one that is told is that which passes soonest: statuses that say
# when to come back, then what the provider may recover from, then our own accounts; what one of
# them holds against the request comes last.
_WAIT_HELPS = frozenset({429, 503})
_OUR_ACCOUNTS = frozenset({"upstream_credentials", "upstream_quota"})


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
    # How often workers gave it back at the present target.
    hand_backs: int = 0
    # Of each candidate that was left for the next one, the last error.
    left: list[InferenceError] = field(default_factory=list)

    @property
    def target(self) -> Target:
        """Where the present attempt goes."""
        return self.targets[self.index]

    @property
    def has_next(self) -> bool:
        """Whether another candidate is left; spare ones are, where the present one is spare."""
        place = self.index + 1
        return place < len(self.targets) and self.targets[place].spare <= self.target.spare

    @property
    def larger(self) -> int:
        """The place of the next candidate for a longer prompt; 0 = there is none.

        Its window is known to be larger, or the settings say so.
        """
        here = self.target
        for place in range(self.index + 1, len(self.targets)):
            there = self.targets[place]
            if there.spare and (there.provider, there.model) != (here.provider, here.model):
                return place
            if here.window and there.window > here.window:
                return place
        return 0

    def go_on(self, place: int = 0, *, error: InferenceError | None = None) -> None:
        """Turn to the next candidate, or to the one at `place`; `error`: why this one is left."""
        if error is not None:
            error.provider = error.provider or self.target.provider
            error.model = error.model or self.target.model
            self.left.append(error)
        self.index = place or self.index + 1
        self.tries = 1
        self.resumes = 0
        self.hand_backs = 0
        self.dead_keys.clear()
        self.tired_keys.clear()

    def go_round(self) -> None:
        """Begin with the first candidate again."""
        self.index = -1
        self.go_on()
        self.left.clear()


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
    plan: Plan,
    error: InferenceError,
    *,
    shown: bool,
    resumable: bool,
    left_s: float,
    jitter: float,
    resting: bool = False,
) -> Step:
    """The step after a provider's failure.

    `left_s` is the time to the deadline, `jitter` 0..1; `resting`: the target's breaker is open, so
    that it is left alone while there is another one. Limits open it too, and say when to come back.
    """
    plan.errors.append(error)
    judged = over_keys(plan, error)
    if judged is None:
        return Again(resume=shown) if resumable or not shown else GiveUp(error)
    if shown:
        return _rerun(plan, judged, resumable=resumable, left_s=left_s, jitter=jitter)
    if judged.reason == "deadline" and plan.has_next and left_s > _A_MOMENT_S:
        plan.go_on(error=judged)  # the limit was one call's alone
        return Again()
    left_alone = resting and plan.has_next and judged.reason != "upstream_rate_limit"
    if (
        judged.row.retry is Retry.SAME
        and plan.tries < MAX_TRIES
        and not judged.exhausted
        and not left_alone
    ):
        wait = delay(plan.tries, judged.retry_after, jitter)
        if wait is not None and wait < left_s:
            plan.tries += 1
            # Broken off before anybody read it, it was called and paid for all the same.
            plan.resumes += judged.phase == "content"
            plan.tired_keys.clear()
            return Again(wait)
    return elsewhere(plan, judged)


def after_wait(plan: Plan, *, resting: bool) -> Step | None:
    """Another step than to try again here, now that the wait is over, or None.

    `resting`: others have found the target down meanwhile.
    """
    error = plan.errors[-1] if plan.errors else None
    if error is None or error.reason == "upstream_rate_limit" or not (resting and plan.has_next):
        return None
    return elsewhere(plan, error)


def after_queueing(plan: Plan) -> Step:
    """The step after nobody took the job for as long as one waits while others may be asked."""
    message = "no worker was free in time"
    plan.go_on(error=InferenceError("queue_timeout", message, phase="queued"))
    return Again()


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
        plan.go_on(error=error)
        return Again()
    if retry is Retry.LARGER and plan.larger:
        plan.go_on(plan.larger, error=error)
        return Again()
    return GiveUp(told(plan, error))


def told(plan: Plan, error: InferenceError) -> InferenceError:
    """What the caller is told when `error` was the last one: of which candidate, and who failed."""
    if not plan.left:
        return error
    error.provider = error.provider or plan.target.provider
    error.model = error.model or plan.target.model
    every = [*plan.left, error]
    said = error if error.row.retry is Retry.NEVER else max(enumerate(every), key=_worth)[1]
    tried = "; ".join(f"{one.provider}/{one.model}: {one.reason}" for one in every)
    return said.saying(f"{said.message} (tried: {tried})")


def _worth(numbered: tuple[int, InferenceError]) -> tuple[int, int]:
    """How much a caller has of being told this one of several candidates' errors."""
    number, error = numbered
    row = error.row
    if error.reason in _OUR_ACCOUNTS:
        return 1, number
    if row.fault is Fault.CALLER:
        return 0, -number  # of mistakes the first one's: that model was asked for
    return (3 if row.http in _WAIT_HELPS else 2), number


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
    if not shown:
        return Again()
    if not resumable or plan.resumes >= MAX_RESUMES:
        return GiveUp(error)
    plan.resumes += 1
    plan.tries = 1
    return Again(resume=True)


def after_hand_back(
    plan: Plan, *, shown: bool, resumable: bool, left_s: float, jitter: float
) -> Step:
    """The step after a worker gave the job up: it drains, which is nobody's failure.

    The first time it goes on at once. Then the waits grow, and they have an end: a worker that
    fails before it makes the call gives everything back that it is given.
    """
    if shown and not resumable:
        return GiveUp(InferenceError("worker_lost", "the worker was shut down", phase="content"))
    wait = delay(plan.hand_backs, None, jitter) if plan.hand_backs else 0.0
    if plan.hand_backs < MAX_HAND_BACKS and (wait or 0.0) < left_s:
        plan.hand_backs += 1
        return Again(wait or 0.0, resume=shown)
    message = f"workers gave this request back {plan.hand_backs + 1} times without an answer"
    error = InferenceError("worker_lost", message, phase="content" if shown else "")
    plan.errors.append(error)
    return GiveUp(error) if shown else elsewhere(plan, error)


def out_of_time(plan: Plan, *, running: bool, shown: bool) -> InferenceError:
    """What the caller is told when the deadline passes."""
    if not running:
        message = "no worker was free before the deadline; retry later or allow more time"
        return InferenceError("queue_timeout", message, phase="queued")
    phase = "content" if shown else "before_content"
    error = InferenceError("deadline", "the deadline passed", phase=phase)
    error.provider, error.model = plan.target.provider, plan.target.model
    return error


def _rerun(
    plan: Plan, error: InferenceError, *, resumable: bool, left_s: float, jitter: float
) -> Step:
    """The step after a failure of an answer that was shown in part: the same is asked once more.

    The first time at once, then after waits that grow. A run that breaks off uses up a resume; one
    that does not begin is tried again for a while.
    """
    begun = error.phase == "content"
    if not resumable or error.reason not in RESUMABLE:
        return GiveUp(_interrupted(plan, error))
    if (plan.resumes >= MAX_RESUMES) if begun else (plan.tries >= MAX_RERUN_TRIES):
        return GiveUp(error)
    before = plan.resumes if begun else plan.resumes - 1 + plan.tries
    at_once = not before and error.retry_after is None
    wait = 0.0 if at_once else delay(max(1, before), error.retry_after, jitter)
    if wait is None or wait >= left_s:
        return GiveUp(error)
    plan.resumes += begun
    plan.tries = 1 if begun else plan.tries + 1
    plan.tired_keys.clear()
    return Again(wait, resume=True)


def _interrupted(plan: Plan, error: InferenceError) -> InferenceError:
    """What is told where a second run was refused: the answer broke off, and that is no mistake."""
    broke = [one for one in plan.errors if one.reason in RESUMABLE]
    if error.row.fault is not Fault.CALLER or error.row.retry is Retry.NEVER or not broke:
        return error
    cut = broke[-1]
    return cut.saying(f"{cut.message}; running it again failed: {error.reason}")


def delay(tries: int, retry_after: float | None, jitter: float) -> float | None:
    """Seconds to wait before the next try here; None when that is too long."""
    if retry_after is not None:
        return retry_after if retry_after <= PATIENCE_S else None
    return min(BACKOFF_S * 2.0 ** (tries - 1), BACKOFF_CAP_S) * (0.8 + 0.4 * jitter)
