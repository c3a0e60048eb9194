"""Percentiles of what was counted in buckets, by one process or by many."""

from __future__ import annotations

import random

import pytest

from broker.routing.spread import NOTHING, Spread, at, bucket, together


@pytest.mark.parametrize("part", [0.5, 0.75, 0.9, 0.99])
def test_percentiles_are_good_to_a_few_percent(part: float) -> None:
    dice = random.Random(3)
    figures = sorted(dice.lognormvariate(6, 1) for _ in range(5000))
    workers = [Spread(first_ms={}) for _ in range(7)]
    counted: list[dict[int, int]] = [{} for _ in workers]
    for number, figure in enumerate(figures):
        counts = counted[number % 7]
        counts[bucket(figure)] = counts.get(bucket(figure), 0) + 1
    whole = together(Spread(counts) for counts in counted)
    assert at(whole.first_ms, part) == pytest.approx(figures[int(part * 5000) - 1], rel=0.03)


def test_nothing_has_no_percentiles() -> None:
    assert at(NOTHING.first_ms, 0.5) is None
    assert together([]) == NOTHING


def test_one_figure_is_every_percentile() -> None:
    for part in (0, 0.01, 0.5, 1):
        assert at({bucket(250.0): 1}, part) == pytest.approx(250, rel=0.026)
