from __future__ import annotations

from typing import Any

import pytest

from workers.counts import count


@pytest.mark.parametrize(
    ("written", "read"), [(7, 7), (0, 0), (7.0, 7), ("7", 7), (2**53, 2**53), ("0", 0)]
)
def test_a_count_is_read_however_it_is_written(written: Any, read: int) -> None:
    assert count(written) == read


@pytest.mark.parametrize(
    "odd", [None, True, -1, -0.5, 1e30, float("nan"), float("inf"), "", "x", "-7", "9" * 5000, "٣", [], {}]
)  # fmt: skip
def test_what_counts_nothing_is_no_count(odd: Any) -> None:
    assert count(odd) is None
