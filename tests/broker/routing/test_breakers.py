"""When breakers open, who may try then, and how they close."""

from __future__ import annotations

import pytest

from broker.errors import TABLE, InferenceError
from broker.routing.breakers import FAILURES, FIRST_S, LONGEST_S, Breakers

PLACE = ("openai", "gpt-4o")
BROKEN = InferenceError("upstream_error", "no")
LIMITED = InferenceError("upstream_rate_limit", "slow down", retry_after=40)


def opened(breakers: Breakers, now: float = 0.0) -> float:
    return [breakers.failed(PLACE, BROKEN, now, now) for _ in range(FAILURES)][-1]


def test_failures_in_a_row_open_a_breaker() -> None:
    breakers = Breakers()
    assert [breakers.failed(PLACE, BROKEN, 0, 0) for _ in range(FAILURES)] == [0, 0, FIRST_S]
    assert breakers.resting(PLACE, FIRST_S - 0.1)
    assert not breakers.resting(PLACE, FIRST_S)
    assert not breakers.resting(("openai", "other"), 0)


def test_an_answer_in_between_keeps_it_closed() -> None:
    breakers = Breakers()
    for _ in range(FAILURES * 3):
        assert breakers.failed(PLACE, BROKEN, 0, 0) == 0
        assert not breakers.worked(PLACE, 1)
    assert not breakers.resting(PLACE, 0)


def test_what_began_before_it_opened_changes_nothing() -> None:
    breakers = Breakers()
    opened(breakers)
    assert breakers.failed(PLACE, BROKEN, -1, 0.5) == 0
    assert not breakers.worked(PLACE, -1)
    assert breakers.resting(PLACE, 0.5)
    assert not breakers.resting(PLACE, FIRST_S)


def test_one_probe_goes_and_its_failure_doubles_the_rest() -> None:
    breakers = Breakers()
    now = opened(breakers)
    assert not breakers.resting(PLACE, now)
    breakers.probe(PLACE, now)
    assert breakers.resting(PLACE, now + 0.1)  # nobody else goes meanwhile
    rests = []
    now += FIRST_S
    for _ in range(6):
        rests.append(breakers.failed(PLACE, BROKEN, now, now))
        now += rests[-1]
    assert rests == [4, 8, LONGEST_S, LONGEST_S, LONGEST_S, LONGEST_S]


def test_a_probe_that_works_closes_it() -> None:
    breakers = Breakers()
    opened(breakers)
    assert breakers.worked(PLACE, 1)
    assert not breakers.resting(PLACE, 0.1)
    assert breakers.failed(PLACE, BROKEN, 0.2, 0.2) == 0  # it counts from the start again


def test_a_limit_opens_it_at_once_for_as_long_as_was_said() -> None:
    breakers = Breakers()
    assert breakers.failed(PLACE, LIMITED, 0, 0) == 40
    assert breakers.resting(PLACE, 39)
    # Calls that began before are answered still, and lift nothing.
    assert not breakers.worked(PLACE, -1)
    assert breakers.resting(PLACE, 39)
    now = 40.0
    breakers.probe(PLACE, now)
    assert breakers.failed(PLACE, LIMITED, now, now + 0.1) == 40
    assert breakers.resting(PLACE, now + 39)
    long = InferenceError("upstream_rate_limit", "", retry_after=3600)
    assert Breakers().failed(PLACE, long, 0, 0) == 60


CALLERS = [reason for reason in TABLE if not reason.startswith(("upstream", "stalled"))]


@pytest.mark.parametrize("reason", [r for r in CALLERS if "timeout" not in r])
def test_what_is_not_the_providers_fault_opens_nothing(reason: str) -> None:
    breakers = Breakers()
    assert {breakers.failed(PLACE, InferenceError(reason, ""), 0, 0) for _ in range(9)} == {0}


def test_what_others_say_counts_too() -> None:
    breakers = Breakers()
    breakers.told(PLACE, 5, 0)
    assert breakers.resting(PLACE, 4.9)
    breakers.told(PLACE, 0, 3)
    assert not breakers.resting(PLACE, 3)
