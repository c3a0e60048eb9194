"""What follows the failure of a line of a batch: nobody waits for it, so it has time."""

from __future__ import annotations

import pytest

from broker import durable
from broker.batch.failures import (
    BACKOFF_CAP_S,
    BLAME,
    LIMIT_CAP_S,
    MOST_FAILURES,
    Blame,
    after_failure,
    waited_s,
)
from broker.dispatch import Again, GiveUp, Plan, Step
from broker.errors import TABLE, InferenceError, Retry
from broker.routing import Target
from broker.v1 import job_pb2

A, B = (Target(name, "main", "m", listed=True) for name in "ab")
TRIES = 3
LIMIT = "upstream_rate_limit"
FINAL = [
    reason
    for reason, row in TABLE.items()
    if row.retry is not Retry.SAME and reason not in BLAME and row.retry is not Retry.NEXT
]
PASSING = [reason for reason, blame in BLAME.items() if blame is Blame.PROVIDER]
DOUBTFUL = [reason for reason, blame in BLAME.items() if blame is Blame.EITHER]
COSTLY = ["upstream_incomplete", "invalid_answer"]
# What ends a request over HTTP at once, or soon.
DAY = 1500


def fail(
    plan: Plan,
    reason: str = "upstream_error",
    jitter: float = 0.0,
    *,
    others_answered: bool = True,
    **more: object,
) -> Step:
    error = InferenceError(reason, "said so", **more)  # type: ignore[arg-type]
    return after_failure(plan, error, tries=TRIES, others_answered=others_answered, jitter=jitter)


def waits(step: Step) -> float:
    assert isinstance(step, Again)
    return step.delay_s


def test_failures_are_tried_again_with_growing_pauses_then_elsewhere_then_told() -> None:
    plan = Plan([A, B])
    assert [waits(fail(plan)) for _ in range(3)] == [1, 3, 0]
    assert plan.target == B
    assert [waits(fail(plan)) for _ in range(2)] == [1, 3]
    assert isinstance(fail(plan), GiveUp)


@pytest.mark.parametrize("reason", PASSING)
def test_what_is_no_fault_of_the_line_is_waited_for_a_whole_day(reason: str) -> None:
    plan = Plan([A])
    pauses = [waits(fail(plan, reason)) for _ in range(DAY)]
    longest = LIMIT_CAP_S if reason == LIMIT else BACKOFF_CAP_S
    assert pauses[:2] in ([1, 2], [1, 3])
    assert sorted(pauses) == pauses
    assert set(pauses[6:]) == {longest}
    assert plan.tries == 1


@pytest.mark.parametrize("reason", DOUBTFUL)
def test_while_its_model_answers_nobody_a_line_is_tried_for_a_whole_day(reason: str) -> None:
    plan = Plan([A])
    for _ in range(DAY):
        assert isinstance(fail(plan, reason, others_answered=False), Again)


@pytest.mark.parametrize("reason", DOUBTFUL)
def test_a_line_that_fails_while_its_model_answers_others_is_given_up(reason: str) -> None:
    plan = Plan([A])
    for _ in range(TRIES - 1):
        assert isinstance(fail(plan, reason), Again)
    assert isinstance(fail(plan, reason), GiveUp)


@pytest.mark.parametrize("reason", DOUBTFUL)
def test_a_line_that_failed_beside_others_holds_its_batch_for_an_hour_at_most(
    reason: str,
) -> None:
    plan = Plan([A])
    fail(plan, reason)
    fail(plan, reason)
    steps = [fail(plan, reason, others_answered=False) for _ in range(MOST_FAILURES)]
    assert isinstance(steps[-3], Again)
    assert isinstance(steps[-1], GiveUp)


@pytest.mark.parametrize("reason", COSTLY)
def test_what_costs_money_every_time_is_tried_so_often_and_no_more(reason: str) -> None:
    plan = Plan([A])
    for _ in range(TRIES - 1):
        assert isinstance(fail(plan, reason, others_answered=False), Again)
    assert isinstance(fail(plan, reason, others_answered=False), GiveUp)


@pytest.mark.parametrize("reason", DOUBTFUL)
def test_an_answer_that_breaks_off_costs_money_whatever_broke_it_off(reason: str) -> None:
    plan = Plan([A])
    for _ in range(TRIES - 1):
        assert isinstance(fail(plan, reason, others_answered=False, phase="content"), Again)
    assert isinstance(fail(plan, reason, others_answered=False, phase="content"), GiveUp)


@pytest.mark.parametrize(("said", "waited"), [(0.5, 1), (20, 20), (3600, BACKOFF_CAP_S)], ids=str)
def test_a_provider_is_believed_up_to_a_minute(said: float, waited: float) -> None:
    assert waits(fail(Plan([A]), LIMIT, retry_after=said)) == waited


def test_where_another_candidate_is_left_a_limit_is_a_failure_like_others() -> None:
    plan = Plan([A, B])
    for _ in range(TRIES):
        assert isinstance(fail(plan, LIMIT), Again)
    assert plan.target == B


def test_where_the_last_candidate_is_in_trouble_the_best_one_is_asked_again_later() -> None:
    plan = Plan([A, B])
    assert waits(fail(plan, "upstream_quota")) == 0
    assert plan.target == B
    assert waits(fail(plan, "connect_timeout")) == 1
    assert plan.target == A
    assert waits(fail(plan, "upstream_quota")) == 0
    assert waits(fail(plan, "connect_timeout")) == 3  # it does not begin with short waits again


def test_what_was_refused_together_does_not_come_back_together() -> None:
    assert waits(fail(Plan([A]), LIMIT, retry_after=20.0, jitter=1.0)) == 28


def test_another_key_is_tried_at_once() -> None:
    plan = Plan([A])
    assert waits(fail(plan, LIMIT, key="k1", other_keys=1)) == 0
    assert plan.tired_keys == ["k1"]
    assert waits(fail(plan, LIMIT, key="k2")) == 1
    assert plan.tired_keys == []


def test_a_revoked_key_is_remembered_once_however_long_it_is_waited_for() -> None:
    plan = Plan([A])
    for _ in range(DAY):
        assert isinstance(fail(plan, "upstream_credentials", key="k1"), Again)
    assert len(plan.dead_keys) <= 1


@pytest.mark.parametrize("reason", FINAL)
def test_what_is_final_is_told_at_once(reason: str) -> None:
    assert isinstance(fail(Plan([A, B]), reason), GiveUp)


@pytest.mark.parametrize("reason", ["invalid_request", "model_not_found", "request_too_large"])
def test_what_another_provider_may_take_is_told_when_there_is_none(reason: str) -> None:
    plan = Plan([A, B])
    assert waits(fail(plan, reason)) == 0
    assert isinstance(fail(plan, reason), GiveUp)


def test_how_often_a_line_waited_travels_with_its_job() -> None:
    job, plan = job_pb2.Job(), Plan([A])
    fail(plan, LIMIT)
    durable.put_plan(job, plan)
    assert waits(fail(durable.plan_of(job), LIMIT)) == 2


def test_it_is_known_how_long_a_line_waited_at_most() -> None:
    plan = Plan([A])
    assert waited_s(plan) == 0
    for _ in range(8):
        pause = waits(fail(plan, "upstream_unreachable", jitter=1.0))
        assert waited_s(plan) >= pause
