"""What follows the failure of a line of a batch: nobody waits for it, so it has time."""

from __future__ import annotations

import pytest

from broker import durable
from broker.dispatch import (
    LIMIT_CAP_S,
    LINE_BACKOFF_CAP_S,
    Again,
    GiveUp,
    Plan,
    Step,
    after_line_failure,
)
from broker.errors import TABLE, InferenceError, Retry
from broker.routing import Target
from broker.v1 import job_pb2

A, B = (Target(name, "main", "m", listed=True) for name in "ab")
TRIES = 3
LIMIT = "upstream_rate_limit"
FINAL = [reason for reason, row in TABLE.items() if row.retry in {Retry.NEVER, Retry.LARGER}]


def fail(plan: Plan, reason: str = "upstream_error", jitter: float = 0.0, **more: object) -> Step:
    error = InferenceError(reason, "said so", **more)  # type: ignore[arg-type]
    return after_line_failure(plan, error, tries=TRIES, jitter=jitter)


def waits(step: Step) -> float:
    assert isinstance(step, Again)
    return step.delay_s


def test_failures_are_tried_again_with_growing_pauses_then_elsewhere_then_told() -> None:
    plan = Plan([A, B])
    assert [waits(fail(plan)) for _ in range(3)] == [1, 3, 0]
    assert plan.target == B
    assert [waits(fail(plan)) for _ in range(2)] == [1, 3]
    assert isinstance(fail(plan), GiveUp)


def test_limits_are_sat_out_however_often_and_use_up_no_try() -> None:
    plan = Plan([A])
    pauses = [waits(fail(plan, LIMIT)) for _ in range(20)]
    assert pauses[:4] == [1, 2, 4, 8]
    assert set(pauses[4:]) == {LIMIT_CAP_S}
    assert plan.tries == 1


@pytest.mark.parametrize(
    ("said", "waited"), [(0.5, 1), (20, 20), (3600, LINE_BACKOFF_CAP_S)], ids=str
)
def test_a_provider_is_believed_up_to_a_minute(said: float, waited: float) -> None:
    assert waits(fail(Plan([A]), LIMIT, retry_after=said)) == waited


def test_where_another_candidate_is_left_a_limit_is_a_failure_like_others() -> None:
    plan = Plan([A, B])
    for _ in range(TRIES):
        assert isinstance(fail(plan, LIMIT), Again)
    assert plan.target == B


def test_what_was_refused_together_does_not_come_back_together() -> None:
    assert waits(fail(Plan([A]), LIMIT, retry_after=20.0, jitter=1.0)) == 28


def test_another_key_is_tried_at_once() -> None:
    plan = Plan([A])
    assert waits(fail(plan, LIMIT, key="k1", other_keys=1)) == 0
    assert plan.tired_keys == ["k1"]
    assert waits(fail(plan, LIMIT, key="k2")) == 1
    assert plan.tired_keys == []


def test_a_key_that_failed_in_another_worker_is_no_reason_to_fail() -> None:
    job = job_pb2.Job()
    plan = Plan([A])
    fail(plan, LIMIT, key="k1", other_keys=1)
    durable.put_plan(job, plan)
    told = durable.plan_of(job)  # without the errors of earlier attempts
    assert isinstance(fail(told, "upstream_credentials", key="k2"), GiveUp)


@pytest.mark.parametrize("reason", FINAL)
def test_what_is_final_is_told_at_once(reason: str) -> None:
    assert isinstance(fail(Plan([A, B]), reason), GiveUp)


def test_how_often_a_line_waited_travels_with_its_job() -> None:
    job, plan = job_pb2.Job(), Plan([A])
    fail(plan, LIMIT)
    durable.put_plan(job, plan)
    assert waits(fail(durable.plan_of(job), LIMIT)) == 2
