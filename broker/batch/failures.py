"""What follows the failure of a line of a batch, for which nobody waits: it has time; pure.

What may pass is tried again until whoever runs the batch ends it with its window. What is final,
and what is the line's own fault, ends the line.
"""

from __future__ import annotations

from enum import Enum

from broker.dispatch import Again, GiveUp, Plan, Step, elsewhere, over_keys
from broker.errors import InferenceError, Retry

# The first wait, how the next ones grow, and the longest. It is no longer, whatever a provider asks
# for, so that a batch that is cancelled is soon over.
BACKOFF_S = 1.0
BACKOFF_GROWTH = 3.0
BACKOFF_CAP_S = 60.0
# For a limit, where the provider does not say how long: it may have room again at any moment.
LIMIT_GROWTH = 2.0
LIMIT_CAP_S = 8.0


# Failures after which a line is given up that its model answered others beside, if only once: so
# that one bad line at the end of a batch does not hold it open for the whole window. About an hour.
MOST_FAILURES = 60


class Blame(Enum):
    """Whose failure it may be that is not final."""

    # The line was not looked at: it can wait for better times as long as its batch has.
    PROVIDER = "provider"
    # The provider has trouble, or has it with this line: that shows where it answers others.
    EITHER = "either"
    # The line was begun to be answered: every further try costs as much.
    LINE = "line"


# What is not here is final, unless it is tried again with the same provider.
BLAME = {
    "upstream_rate_limit": Blame.PROVIDER,
    "upstream_quota": Blame.PROVIDER,
    "upstream_credentials": Blame.PROVIDER,
    "upstream_unreachable": Blame.PROVIDER,
    "upstream_overloaded": Blame.PROVIDER,
    "connect_timeout": Blame.PROVIDER,
    "queue_full": Blame.PROVIDER,
    "queue_timeout": Blame.PROVIDER,
    "no_worker": Blame.PROVIDER,
    "upstream_error": Blame.EITHER,
    "first_token_timeout": Blame.EITHER,
    "stalled": Blame.EITHER,
}


def after_failure(
    plan: Plan, error: InferenceError, *, tries: int, others_answered: bool, jitter: float
) -> Step:
    """The step after a line failed, which may do so `tries` times by its own fault.

    `others_answered`: the model has answered others since this line failed last. `jitter` 0..1.
    """
    plan.errors.append(error)
    judged = over_keys(plan, error)
    if judged is None:
        return Again()
    retry, blame = judged.row.retry, BLAME.get(judged.reason)
    if retry is not Retry.SAME and blame is None:
        return elsewhere(plan, judged)
    if plan.has_next:
        if retry is Retry.SAME and plan.tries < tries and not judged.exhausted:
            plan.tries += 1
            return _wait(plan, judged, jitter)
        return elsewhere(plan, judged)
    if judged.phase == "content" or blame is None:
        blame = Blame.LINE
    if _passes(plan, blame, others_answered):
        plan.limited += 1
        step = _wait(plan, judged, jitter)
        if blame is Blame.PROVIDER and plan.index:
            plan.go_round()  # a better one may be well again
        return step
    if plan.tries < tries and _failures(plan) < MOST_FAILURES and not judged.exhausted:
        plan.tries += 1
        return _wait(plan, judged, jitter)
    return GiveUp(judged)


def waited_s(plan: Plan) -> float:
    """How long a line waited before its present attempt, at most, if it was not told how long."""
    failures = _failures(plan)
    return 1.4 * _growing(failures) if failures else 0.0


def _passes(plan: Plan, blame: Blame, others_answered: bool) -> bool:
    """Whether a failure uses up none of the line's tries."""
    if blame is Blame.EITHER:
        # The first one counts: nothing is known of others since the one before.
        alone = not others_answered and _failures(plan) > 0
        return alone and not (plan.tries > 2 and _failures(plan) >= MOST_FAILURES)
    return blame is Blame.PROVIDER


def _failures(plan: Plan) -> int:
    """How often the line failed before."""
    return plan.tries - 1 + plan.limited


def _growing(failures: int) -> float:
    return min(BACKOFF_S * BACKOFF_GROWTH ** min(failures - 1, 9), BACKOFF_CAP_S)


def _wait(plan: Plan, error: InferenceError, jitter: float) -> Again:
    # Keys that failed it are tried again then, or rest.
    plan.tired_keys.clear()
    plan.dead_keys.clear()
    if error.reason == "upstream_rate_limit" and not plan.has_next:
        grown = min(BACKOFF_S * LIMIT_GROWTH ** min(plan.limited - 1, 9), LIMIT_CAP_S)
    else:
        grown = _growing(_failures(plan))
    wait = min(max(grown, error.retry_after or 0.0), BACKOFF_CAP_S)
    # Spread, or all that were refused would come back together.
    return Again(wait * (1 + 0.4 * jitter))
