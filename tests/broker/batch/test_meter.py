"""How fast a batch goes."""

from __future__ import annotations

import pytest

from broker.batch.meter import Meter, Speed


def test_nothing_is_known_at_first_sight_or_when_no_time_passed() -> None:
    meter = Meter()
    assert meter.see(5.0, 10, 100, 50) == Speed()
    assert meter.see(5.0, 20, 200, 50) == Speed()


def test_the_speed_is_that_of_the_last_seconds_alone() -> None:
    meter = Meter()
    for second in range(10):
        meter.see(float(second), 0, 0, 1000)  # it had not begun
    for second in range(10, 60):
        speed = meter.see(float(second), 10 * (second - 10), 50 * (second - 10), 1000)
    assert speed.lines == pytest.approx(10)
    assert speed.tokens == pytest.approx(50)
    assert speed.left_s == pytest.approx((1000 - 490) / 10)


def test_of_a_batch_that_stands_still_nobody_knows_the_end() -> None:
    meter = Meter()
    meter.see(0.0, 5, 9, 10)
    assert meter.see(1.0, 5, 9, 10) == Speed(0.0, 0.0, 0.0)
