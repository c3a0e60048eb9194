"""What follows a failure: again, elsewhere, resumed, or the end."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.dispatch import (
    BACKOFF_CAP_S,
    MAX_HAND_BACKS,
    MAX_KEYS,
    MAX_RERUN_TRIES,
    MAX_RESUMES,
    MAX_TRIES,
    NEXT_KEY,
    PATIENCE_S,
    RESUMABLE,
    Again,
    GiveUp,
    Plan,
    Step,
    after_failure,
    after_hand_back,
    after_loss,
    after_queueing,
    after_wait,
)
from broker.errors import TABLE, InferenceError, Retry
from broker.routing import Target

A, B = (Target(name, "main", "m", listed=True) for name in "ab")
RETRIED = [reason for reason, row in TABLE.items() if row.retry is Retry.SAME]
ELSEWHERE = [reason for reason, row in TABLE.items() if row.retry is Retry.NEXT]
FINAL = [reason for reason, row in TABLE.items() if row.retry in {Retry.NEVER, Retry.LARGER}]


def fail(
    plan: Plan,
    reason: str = "upstream_error",
    *,
    shown: bool = False,
    resumable: bool = True,
    left_s: float = 600,
    jitter: float = 0.5,
    retry_after: float | None = None,
    key: str = "",
    other_keys: int = 0,
    exhausted: bool = False,
    phase: str = "",
    resting: bool = False,
) -> Step:
    error = InferenceError(
        reason,
        "said so",
        provider=plan.target.provider,
        model=plan.target.model,
        retry_after=retry_after,
        key=key,
        other_keys=other_keys,
        exhausted=exhausted,
        phase=phase,
    )
    return after_failure(
        plan,
        error,
        shown=shown,
        resumable=resumable,
        left_s=left_s,
        jitter=jitter,
        resting=resting,
    )


@pytest.mark.parametrize("reason", RETRIED)
def test_what_may_pass_is_tried_three_times_here_then_elsewhere_then_given_up(reason: str) -> None:
    plan = Plan([A, B])
    steps = [fail(plan, reason) for _ in range(2 * MAX_TRIES)]
    waits = [step.delay_s if isinstance(step, Again) else None for step in steps]
    assert waits == [0.5, 1.0, 0.0, 0.5, 1.0, None]
    assert plan.target == B
    assert isinstance(steps[-1], GiveUp)
    told = steps[-1].error
    assert (told.reason, told.provider) == (reason, "b")


@pytest.mark.parametrize("reason", RETRIED)
def test_what_the_worker_tried_again_itself_goes_elsewhere_at_once(reason: str) -> None:
    plan = Plan([A, B])
    assert fail(plan, reason, exhausted=True) == Again()
    assert plan.target == B
    assert isinstance(fail(plan, reason, exhausted=True), GiveUp)


@pytest.mark.parametrize("reason", ELSEWHERE)
def test_what_waiting_does_not_help_goes_elsewhere_at_once(reason: str) -> None:
    plan = Plan([A, B])
    assert fail(plan, reason) == Again()
    assert plan.target == B
    assert isinstance(fail(plan, reason), GiveUp)


@pytest.mark.parametrize("reason", FINAL)
def test_what_is_the_callers_to_change_is_told_at_once(reason: str) -> None:
    plan = Plan([A, B])
    assert isinstance(fail(plan, reason, left_s=0.5), GiveUp)
    assert plan.target == A


def test_an_unknown_reason_of_a_newer_worker_is_final() -> None:
    assert isinstance(fail(Plan([A, B]), "reason_of_2031"), GiveUp)


@pytest.mark.parametrize(("wait", "delay"), [(0.0, 0.0), (2.0, 2.0), (PATIENCE_S, PATIENCE_S)])
def test_retry_after_is_kept_to(wait: float, delay: float) -> None:
    assert fail(Plan([A]), "upstream_rate_limit", retry_after=wait) == Again(delay)


def test_a_retry_after_beyond_patience_is_not_waited_for() -> None:
    plan = Plan([A, B])
    assert fail(plan, "upstream_rate_limit", retry_after=PATIENCE_S + 0.1) == Again()
    assert plan.target == B
    assert isinstance(fail(plan, "upstream_rate_limit", retry_after=60), GiveUp)


def test_the_limit_of_one_call_is_the_next_candidates_turn_and_the_deadline_is_nobodys() -> None:
    plan = Plan([A, B])
    assert fail(plan, "deadline", left_s=30) == Again()
    assert plan.target is B
    assert isinstance(fail(plan, "deadline", left_s=30), GiveUp)
    assert isinstance(fail(Plan([A, B]), "deadline", left_s=0.01), GiveUp)


def test_nobody_waits_beyond_the_deadline() -> None:
    assert isinstance(fail(Plan([A]), left_s=0.3), GiveUp)
    plan = Plan([A, B])
    assert fail(plan, "upstream_rate_limit", retry_after=5, left_s=4) == Again()
    assert plan.target == B


@pytest.mark.parametrize("reason", sorted(NEXT_KEY))
def test_what_is_one_keys_alone_goes_to_the_next_key_at_once(reason: str) -> None:
    plan = Plan([A, B])
    for left in (2, 1):
        assert fail(plan, reason, key=f"key{left}", other_keys=left, retry_after=60) == Again()
        assert plan.target == A
    assert plan.tries == 1
    assert {*plan.dead_keys, *plan.tired_keys} == {"key1", "key2"}


def test_when_all_keys_are_refused_the_next_provider_has_its_turn_with_its_own_keys() -> None:
    plan = Plan([A, B])
    fail(plan, "upstream_credentials", key="a1", other_keys=1)
    assert fail(plan, "upstream_credentials", key="a2") == Again()
    assert plan.target == B
    assert plan.dead_keys == []
    fail(plan, "upstream_credentials", key="b1", other_keys=1)
    step = fail(plan, "upstream_credentials", key="b2")
    assert isinstance(step, GiveUp)
    assert step.error.reason == "upstream_credentials"


def test_when_all_keys_are_over_their_limits_the_request_waits_and_may_use_all_of_them() -> None:
    plan = Plan([A])
    assert fail(plan, "upstream_rate_limit", key="a1", other_keys=1, retry_after=9) == Again()
    assert fail(plan, "upstream_rate_limit", key="a2", retry_after=4) == Again(4)
    assert plan.tired_keys == []
    assert plan.tries == 2


def test_a_refused_key_is_no_reason_to_give_up_while_another_is_only_over_its_limit() -> None:
    plan = Plan([A])
    assert fail(plan, "upstream_rate_limit", key="busy", other_keys=1, retry_after=3) == Again()
    assert fail(plan, "upstream_credentials", key="wrong") == Again(3)
    assert (plan.dead_keys, plan.tired_keys) == (["wrong"], [])
    step = fail(plan, "upstream_rate_limit", key="busy", retry_after=60)
    assert isinstance(step, GiveUp)
    assert step.error.reason == "upstream_rate_limit"


def test_workers_that_never_agree_on_their_keys_do_not_keep_a_request_going() -> None:
    plan = Plan([A])
    steps = [fail(plan, "upstream_credentials", key=f"k{n}", other_keys=1) for n in range(MAX_KEYS)]
    assert steps[:-1] == [Again()] * (MAX_KEYS - 1)
    assert isinstance(steps[-1], GiveUp)


@given(
    tries=st.integers(1, MAX_TRIES - 1),
    jitter=st.floats(0, 1),
)
def test_back_off_doubles_within_a_fifth_and_has_a_cap(tries: int, jitter: float) -> None:
    step = fail(Plan([A], tries=tries), jitter=jitter)
    assert isinstance(step, Again)
    middle = min(0.5 * 2 ** (tries - 1), BACKOFF_CAP_S)
    assert 0.8 * middle <= step.delay_s <= 1.2 * middle + 1e-9


@given(reasons=st.lists(st.sampled_from(sorted(TABLE)), max_size=40), targets=st.integers(1, 4))
def test_every_request_ends_whatever_fails(reasons: list[str], targets: int) -> None:
    plan = Plan([A] * targets)
    for number, reason in enumerate(reasons, 1):
        if isinstance(fail(plan, reason), GiveUp):
            return
        assert number < MAX_TRIES * targets
        assert plan.index < targets


# What was shown is resumed.

# Of runs that broke off, and of runs that never began.
CUT, UNBEGUN = "content", "before_content"


@pytest.mark.parametrize("reason", sorted(RESUMABLE))
def test_a_shown_answer_is_resumed_on_the_same_target_at_most_twice(reason: str) -> None:
    plan = Plan([A, B])
    for _ in range(MAX_RESUMES):
        step = fail(plan, reason, shown=True, phase=CUT)
        assert isinstance(step, Again)
        assert step.resume
    assert isinstance(fail(plan, reason, shown=True, phase=CUT), GiveUp)
    assert plan.target == A


@pytest.mark.parametrize("reason", sorted(TABLE.keys() - RESUMABLE - NEXT_KEY.keys()))
def test_a_shown_answer_is_never_retried_for_another_reason(reason: str) -> None:
    for phase in (CUT, UNBEGUN):
        assert isinstance(fail(Plan([A, B]), reason, shown=True, phase=phase), GiveUp)


@pytest.mark.parametrize(
    "reason",
    [
        *("upstream_overloaded", "upstream_rate_limit", "connect_timeout", "first_token_timeout"),
        *("upstream_unreachable", "upstream_error"),
    ],
)
def test_a_second_run_that_does_not_begin_is_tried_again_with_growing_delays(reason: str) -> None:
    plan = Plan([A, B])
    assert fail(plan, "upstream_incomplete", shown=True, phase=CUT) == Again(0.0, resume=True)
    waits = []
    while isinstance(step := fail(plan, reason, shown=True, phase=UNBEGUN), Again):
        assert step.resume
        waits.append(step.delay_s)
    assert waits == [0.5, 1.0, 2.0]
    assert len(waits) == MAX_RERUN_TRIES - 1
    assert step.error.reason == reason
    assert plan.target == A


def test_a_provider_that_restarts_uses_up_no_resume() -> None:
    plan = Plan([A])
    fail(plan, "upstream_incomplete", shown=True, phase=CUT)
    for _ in range(MAX_RERUN_TRIES - 1):
        assert isinstance(fail(plan, "upstream_unreachable", shown=True, phase="connect"), Again)
    # It runs, breaks off once more, and has all of its tries again.
    assert isinstance(fail(plan, "upstream_incomplete", shown=True, phase=CUT), Again)
    assert plan.tries == 1
    assert isinstance(fail(plan, "upstream_incomplete", shown=True, phase=CUT), GiveUp)


def test_a_second_run_waits_as_long_as_the_provider_says_and_no_longer_than_patience() -> None:
    plan = Plan([A, B])
    fail(plan, "upstream_incomplete", shown=True, phase=CUT)
    limited = "upstream_rate_limit"
    assert fail(plan, limited, shown=True, phase=UNBEGUN, retry_after=7) == Again(7, resume=True)
    step = fail(plan, limited, shown=True, phase=UNBEGUN, retry_after=PATIENCE_S + 1)
    assert isinstance(step, GiveUp)


def test_tries_before_anything_was_shown_are_none_of_a_later_run() -> None:
    plan = Plan([A])
    for _ in range(MAX_TRIES - 1):
        assert isinstance(fail(plan, "upstream_overloaded", phase=UNBEGUN), Again)
    step = after_loss(plan, shown=True, resumable=True, alone=False)
    assert step == Again(resume=True)
    for _ in range(MAX_RERUN_TRIES - 1):
        step = fail(plan, "upstream_overloaded", shown=True, phase=UNBEGUN)
        assert isinstance(step, Again)
    assert isinstance(fail(plan, "upstream_overloaded", shown=True, phase=UNBEGUN), GiveUp)


def test_a_queue_that_is_full_uses_up_no_resume() -> None:
    plan = Plan([A])
    fail(plan, "upstream_incomplete", shown=True, phase=CUT)
    step = fail(plan, "queue_full", shown=True, retry_after=1)
    assert (step, plan.resumes, plan.tries) == (Again(1, resume=True), 1, 2)


def test_nobody_resumes_beyond_the_deadline() -> None:
    plan = Plan([A])
    fail(plan, "upstream_incomplete", shown=True, phase=CUT)
    step = fail(plan, "upstream_overloaded", shown=True, phase=UNBEGUN, left_s=0.4)
    assert isinstance(step, GiveUp)


@pytest.mark.parametrize("reason", sorted(NEXT_KEY))
def test_a_second_run_goes_to_another_key_at_once(reason: str) -> None:
    plan = Plan([A, B])
    fail(plan, "upstream_incomplete", shown=True, phase=CUT)
    step = fail(plan, reason, shown=True, phase=UNBEGUN, key="a1", other_keys=1, retry_after=60)
    assert step == Again(resume=True)
    assert {*plan.dead_keys, *plan.tired_keys} == {"a1"}
    assert plan.tries == 1


def test_an_answer_that_was_cut_is_not_told_as_the_callers_mistake() -> None:
    plan = Plan([A])
    fail(plan, "upstream_incomplete", shown=True, phase=CUT)
    step = fail(plan, "invalid_request", shown=True, phase=UNBEGUN)
    assert isinstance(step, GiveUp)
    assert step.error.reason == "upstream_incomplete"
    assert "invalid_request" in step.error.message


@given(
    happens=st.lists(
        st.tuples(st.sampled_from(sorted(TABLE)), st.sampled_from([CUT, UNBEGUN])), max_size=60
    )
)
def test_every_shown_answer_ends_whatever_fails(happens: list[tuple[str, str]]) -> None:
    plan = Plan([A, B])
    for number, (reason, phase) in enumerate(happens):
        if isinstance(fail(plan, reason, shown=True, phase=phase), GiveUp):
            break
        assert number < (MAX_RESUMES + 1) * MAX_RERUN_TRIES
    assert plan.target == A


def test_what_cannot_be_compared_is_not_resumed() -> None:
    assert isinstance(fail(Plan([A]), shown=True, resumable=False), GiveUp)
    step = after_loss(Plan([A]), shown=True, resumable=False, alone=False)
    assert isinstance(step, GiveUp)
    assert (step.error.reason, step.error.phase) == ("worker_lost", "content")


def test_a_lost_worker_means_again_at_once_however_often_neighbours_die() -> None:
    plan = Plan([A])
    for losses in range(1, 6):
        assert after_loss(plan, shown=False, resumable=True, alone=False) == Again()
        assert plan.losses == losses
    assert plan.tries == 1  # no failure of the provider


def test_a_prompt_that_is_too_long_goes_to_a_larger_window_alone() -> None:
    small, same, unknown, large = (
        Target("p", "main", name, listed=True, window=window)
        for name, window in (("s", 8), ("e", 8), ("u", 0), ("l", 32))
    )
    plan = Plan([small, same, unknown, large])
    assert fail(plan, "context_length_exceeded") == Again()
    assert plan.target is large
    assert isinstance(fail(plan, "context_length_exceeded"), GiveUp)
    # Where the window is not known nothing is known to be larger.
    assert isinstance(fail(Plan([unknown, large]), "context_length_exceeded"), GiveUp)


def test_a_prompt_that_is_too_long_goes_to_who_is_named_for_that_and_nothing_else_does() -> None:
    first, second, last = (Target(name, "main", "m", listed=True) for name in "abc")
    spare = [replace(target, spare=True) for target in (second, last)]
    plan = Plan([first, second, *spare])
    assert fail(plan, "context_length_exceeded") == Again()
    assert plan.target is spare[0]
    assert fail(plan, "context_length_exceeded") == Again()
    assert plan.target is spare[1]
    assert isinstance(fail(plan, "context_length_exceeded"), GiveUp)
    # Whoever was asked in its turn is not asked once more.
    plan = Plan([first, second, *spare], index=1)
    assert not plan.has_next
    assert fail(plan, "context_length_exceeded") == Again()
    assert plan.target is spare[1]
    # What fails otherwise goes to none of them, but from one to the next.
    plan = Plan([first, *spare])
    assert isinstance(fail(plan, "invalid_request"), GiveUp)
    plan = Plan([first, *spare], index=1)
    assert fail(plan, "model_not_found") == Again()
    assert plan.target is spare[1]


def test_lost_alone_is_poison() -> None:
    plan = Plan([A, B], losses=2)
    step = after_loss(plan, shown=False, resumable=True, alone=True)
    assert isinstance(step, GiveUp)
    assert step.error.reason == "poison"
    assert "3 workers" in step.error.message
    assert step.error.row.retry is Retry.NEVER


def test_losses_of_a_shown_answer_use_up_its_resumes() -> None:
    plan = Plan([A])
    for _ in range(MAX_RESUMES):
        assert after_loss(plan, shown=True, resumable=True, alone=False) == Again(resume=True)
    assert isinstance(after_loss(plan, shown=True, resumable=True, alone=False), GiveUp)


@pytest.mark.parametrize("unread", range(MAX_TRIES))
def test_an_answer_that_breaks_off_is_called_for_three_times_read_or_not(unread: int) -> None:
    plan = Plan([A])
    calls = 1
    for _ in range(unread):
        assert isinstance(fail(plan, "upstream_incomplete", phase="content"), Again)
        calls += 1
    while isinstance(fail(plan, "upstream_incomplete", shown=True, phase="content"), Again):
        calls += 1
    assert calls == MAX_RESUMES + 1 == 3


def test_the_next_candidates_answer_may_be_resumed_as_often_as_the_first_ones() -> None:
    plan = Plan([A, B])
    while plan.target is A:
        assert isinstance(fail(plan, "upstream_incomplete", phase="content"), Again)
    step = fail(plan, "upstream_incomplete", shown=True, phase="content")
    assert step == Again(resume=True)


# Which error is told when several candidates failed.

TOLD = [
    # the one that was asked, the next one -> whose error is told
    ("upstream_overloaded", "model_not_found", "a"),
    ("upstream_overloaded", "invalid_request", "a"),
    ("upstream_error", "model_not_found", "a"),
    ("first_token_timeout", "invalid_request", "a"),
    ("upstream_credentials", "model_not_found", "a"),
    ("upstream_rate_limit", "upstream_error", "a"),  # waiting helps
    ("upstream_overloaded", "context_length_exceeded", "a"),
    ("invalid_request", "upstream_overloaded", "b"),
    ("model_not_found", "upstream_credentials", "b"),
    ("invalid_request", "unprocessable", "a"),  # of the model that was asked for
    ("upstream_error", "upstream_error", "b"),
    # What is never routed around is told, whoever says it.
    ("upstream_overloaded", "content_policy_violation", "b"),
]


@pytest.mark.parametrize(("first", "then", "whose"), TOLD)
def test_what_passes_is_never_told_as_something_permanent(
    first: str, then: str, whose: str
) -> None:
    plan = Plan([A, B])
    while plan.target is A:
        assert isinstance(fail(plan, first), Again)
    while isinstance(step := fail(plan, then), Again):
        pass
    assert (step.error.provider, step.error.reason) == (whose, first if whose == "a" else then)
    assert f"(tried: a/m: {first}; b/m: {then})" in step.error.message


def test_of_one_candidate_the_error_is_told_as_it_is() -> None:
    step = fail(Plan([A]), "invalid_request")
    assert isinstance(step, GiveUp)
    assert step.error.message == "said so"


def test_who_was_too_busy_counts_among_those_that_failed() -> None:
    plan = Plan([A, B])
    assert after_queueing(plan) == Again()
    step = fail(plan, "model_not_found")
    assert isinstance(step, GiveUp)
    assert (step.error.reason, step.error.provider) == ("queue_timeout", "a")


# Breakers.


def test_what_is_down_is_not_tried_again_while_another_is_left() -> None:
    plan = Plan([A, B])
    assert fail(plan, "upstream_error", resting=True) == Again()
    assert plan.target is B
    # Of the last one nothing better is known than to try again.
    assert fail(plan, "upstream_error", resting=True) == Again(0.5)


def test_a_limit_is_waited_for_though_it_opened_the_breaker() -> None:
    plan = Plan([A, B])
    assert fail(plan, "upstream_rate_limit", retry_after=2, resting=True) == Again(2)
    assert after_wait(plan, resting=True) is None


def test_what_was_found_down_during_the_wait_is_left() -> None:
    plan = Plan([A, B])
    assert fail(plan, "upstream_error") == Again(0.5)
    assert after_wait(plan, resting=False) is None
    assert after_wait(plan, resting=True) == Again()
    assert plan.target is B
    fail(plan, "upstream_error")
    assert after_wait(plan, resting=True) is None


# Hand-backs.


def test_hand_backs_are_counted_and_delayed_and_then_somebody_elses() -> None:
    plan = Plan([A, B])

    def given() -> Step:
        return after_hand_back(plan, shown=False, resumable=True, left_s=600, jitter=0.5)

    waits = []
    for _ in range(MAX_HAND_BACKS):
        step = given()
        assert isinstance(step, Again)
        waits.append(step.delay_s)
    assert plan.target is A
    assert waits[:4] == [0.0, 0.5, 1.0, 2.0]
    assert waits == sorted(waits)
    assert given() == Again()
    assert plan.target is B
    for _ in range(MAX_HAND_BACKS):
        assert isinstance(given(), Again)
    step = given()
    assert isinstance(step, GiveUp)
    assert step.error.reason == "worker_lost"
    assert plan.losses == 0


def test_a_shown_answer_that_is_handed_back_is_resumed_and_that_ends_too() -> None:
    plan = Plan([A, B])
    for _ in range(MAX_HAND_BACKS):
        step = after_hand_back(plan, shown=True, resumable=True, left_s=600, jitter=0.5)
        assert isinstance(step, Again)
        assert step.resume
    step = after_hand_back(plan, shown=True, resumable=True, left_s=600, jitter=0.5)
    assert isinstance(step, GiveUp)
    assert plan.target is A
