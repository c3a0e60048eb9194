from __future__ import annotations

import dataclasses

import pytest

from bench.batch import Figures, missed

GOOD = Figures(
    lines=1_000_000,
    validation_s=4.8,
    run_s=500.0,
    rss={"nats": 900_000_000, "broker": 66_000_000, "worker": 76_000_000},
    unary_rps=[1900.0, 2400.0],
)


def test_a_run_within_all_goals_misses_none() -> None:
    assert missed(GOOD) == []


@pytest.mark.parametrize(
    ("change", "goal"),
    [
        ({"validation_s": 31.0}, "validation in 30 s"),
        ({"rss": {"worker": 151_000_000}}, "150 MB for a worker"),
        ({"rss": {"broker": 151_000_000}}, "150 MB for a broker"),
        # Both rates count: the better one must not be beyond reach either.
        ({"unary_rps": [1900.0, 2600.0]}, "80% of single requests a second"),
    ],
)
def test_each_goal_can_be_missed(change: dict[str, object], goal: str) -> None:
    assert missed(dataclasses.replace(GOOD, **change)) == [goal]  # type: ignore[arg-type]
