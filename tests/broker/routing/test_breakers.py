"""When breakers open, who may try then, and how they close."""

from __future__ import annotations

import pytest

from broker.errors import TABLE, InferenceError
from broker.routing.breakers import FAILURES, FIRST_S, LONGEST_S, POLITE_S, Breakers, Opened

PLACE = ("openai", "gpt-4o")
BROKEN = InferenceError("upstream_error", "no")
LIMITED = InferenceError("upstream_rate_limit", "slow down", retry_after=40)


KEYS = ("k1", "k2")
KEYED = {
    key: InferenceError("upstream_rate_limit", "slow down", retry_after=40, key=key) for key in KEYS
}


def rest(opened: Opened | None) -> float:
    return opened.rest_s if opened is not None else 0.0


def fails(breakers: Breakers, begun: float, now: float, error: InferenceError = BROKEN) -> float:
    return rest(breakers.failed(PLACE, error, begun, now))


def opened(breakers: Breakers, now: float = 0.0) -> float:
    return [fails(breakers, now, now) for _ in range(FAILURES)][-1]


def take(breakers: Breakers, now: float) -> None:
    """This process wins the right to the next probe."""
    assert breakers.due(PLACE, now) == 0
    breakers.claimed(PLACE, now, won=True)


def test_failures_in_a_row_open_a_breaker() -> None:
    breakers = Breakers()
    assert not breakers
    assert [fails(breakers, 0, 0) for _ in range(FAILURES)] == [0, 0, FIRST_S]
    assert breakers
    assert breakers.resting(PLACE, FIRST_S - 0.1)
    assert not breakers.resting(("openai", "other"), 0)


def test_what_is_half_open_waits_for_the_right_to_probe() -> None:
    breakers = Breakers()
    opened(breakers)
    assert breakers.resting(PLACE, 1)
    assert breakers.due(PLACE, 1) == FIRST_S - 1
    assert breakers.resting(PLACE, FIRST_S)  # until somebody may try
    take(breakers, FIRST_S)
    assert not breakers.resting(PLACE, FIRST_S)
    breakers.probe(PLACE, FIRST_S)
    assert breakers.resting(PLACE, FIRST_S)  # nobody else goes meanwhile
    assert breakers.due(PLACE, FIRST_S) == FIRST_S


def test_who_does_not_get_the_right_leaves_it_alone_for_a_while() -> None:
    breakers = Breakers()
    opened(breakers)
    assert breakers.resting(PLACE, FIRST_S)
    breakers.claimed(PLACE, FIRST_S, won=False)
    assert breakers.resting(PLACE, FIRST_S + 0.9)
    assert breakers.due(PLACE, FIRST_S + 0.9) == pytest.approx(0.1)


def test_a_right_that_nobody_used_is_asked_for_again() -> None:
    breakers = Breakers()
    opened(breakers)
    assert breakers.resting(PLACE, FIRST_S)
    take(breakers, FIRST_S)
    assert breakers.due(PLACE, FIRST_S) == FIRST_S
    assert breakers.resting(PLACE, 2 * FIRST_S)
    take(breakers, 2 * FIRST_S)
    # Who was not asked for a while lets others go first.
    assert breakers.due(PLACE, 3 * FIRST_S) == POLITE_S
    assert breakers.due(PLACE, 600) is None  # nobody wants to go there any more


def test_who_never_probes_goes_by_the_time_alone() -> None:
    breakers = Breakers(probes=False)
    opened(breakers)
    assert breakers.resting(PLACE, FIRST_S - 0.1)
    assert not breakers.resting(PLACE, FIRST_S)
    assert breakers.due(PLACE, FIRST_S) is None


def test_an_answer_in_between_keeps_it_closed() -> None:
    breakers = Breakers()
    for _ in range(FAILURES * 3):
        assert fails(breakers, 0, 0) == 0
        assert not breakers.worked(PLACE, 1, 1)
    assert not breakers.resting(PLACE, 0)


def test_what_began_before_it_opened_changes_nothing() -> None:
    breakers = Breakers()
    opened(breakers)
    assert fails(breakers, -1, 0.5) == 0
    assert not breakers.worked(PLACE, -1, 0.5)
    assert breakers.resting(PLACE, 0.5)


def test_the_failure_of_a_probe_doubles_the_rest() -> None:
    breakers = Breakers()
    rests = [opened(breakers)]
    now = 0.0
    for _ in range(6):
        now += rests[-1]
        assert breakers.resting(PLACE, now)
        take(breakers, now)
        breakers.probe(PLACE, now)
        rests.append(fails(breakers, now, now))
    assert rests == [2, 4, 8, LONGEST_S, LONGEST_S, LONGEST_S, LONGEST_S]


def test_a_probe_that_works_closes_it() -> None:
    breakers = Breakers()
    opened(breakers)
    assert breakers.worked(PLACE, 1, 1) == [(*PLACE, "")]
    assert not breakers.resting(PLACE, 0.1)
    assert fails(breakers, 0.2, 0.2) == 0  # it counts from the start again


def test_a_limit_opens_it_at_once_for_as_long_as_was_said() -> None:
    breakers = Breakers()
    assert fails(breakers, 0, 0, LIMITED) == 40
    assert breakers.resting(PLACE, 39)
    # Calls that began before are answered still, and lift nothing.
    assert not breakers.worked(PLACE, -1, 1)
    assert breakers.resting(PLACE, 39)
    now = 40.0
    breakers.probe(PLACE, now)
    assert fails(breakers, now, now + 0.1, LIMITED) == 40
    assert breakers.resting(PLACE, now + 39)
    long = InferenceError("upstream_rate_limit", "", retry_after=3600)
    assert fails(Breakers(), 0, 0, long) == 60


def test_a_provider_rests_when_all_of_its_keys_do() -> None:
    breakers = Breakers()
    first = breakers.failed(PLACE, KEYED["k1"], 0, 0, KEYS)
    assert first == Opened((*PLACE, "k1"), 40, FIRST_S)
    assert not breakers.resting(PLACE, 1, KEYS)
    # Failures of the provider are no key's.
    assert not breakers.resting(PLACE, 1, ("k1", "k2", "k3"))
    breakers.failed(PLACE, KEYED["k2"], 5, 5, KEYS)
    assert breakers.resting(PLACE, 6, KEYS)
    assert not breakers.resting(PLACE, 6, (*KEYS, "k3"))  # a worker with another one came
    assert breakers.due(PLACE, 6, KEYS) == 34
    breakers.claimed(PLACE, 40, KEYS, won=True)
    assert not breakers.resting(PLACE, 40, KEYS)
    breakers.probe(PLACE, 40, KEYS)
    assert breakers.worked(PLACE, 40, 41, KEYS) == [(*PLACE, "k1")]
    assert not breakers.resting(PLACE, 42, KEYS)


def test_one_key_of_several_that_nobody_knows_opens_nothing() -> None:
    error = InferenceError("upstream_rate_limit", "", key="k9", other_keys=1)
    assert Breakers().failed(PLACE, error, 0, 0, KEYS) is None
    assert rest(Breakers().failed(PLACE, LIMITED, 0, 0, KEYS)) == 40


CALLERS = [reason for reason in TABLE if not reason.startswith(("upstream", "stalled"))]


@pytest.mark.parametrize("reason", [r for r in CALLERS if "timeout" not in r])
def test_what_is_not_the_providers_fault_opens_nothing(reason: str) -> None:
    breakers = Breakers()
    assert {fails(breakers, 0, 0, InferenceError(reason, "")) for _ in range(9)} == {0}


def test_what_others_say_counts_too() -> None:
    breakers = Breakers()
    breakers.told((*PLACE, ""), 5, 0)
    assert breakers.resting(PLACE, 4.9)
    breakers.told((*PLACE, ""), 0, 3)
    assert not breakers.resting(PLACE, 3)


def test_the_doubled_interval_of_others_is_kept() -> None:
    breakers = Breakers()
    breakers.told((*PLACE, ""), 8, 0, interval_s=8)
    assert breakers.resting(PLACE, 8)  # half-open: it waits for the right to probe
    take(breakers, 8)
    breakers.probe(PLACE, 8)
    assert fails(breakers, 8, 8) == LONGEST_S
