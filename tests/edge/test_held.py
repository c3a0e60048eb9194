"""The bytes of requests that an edge holds: bounded in all and for each key, and given back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.config import Limits
from broker.errors import InferenceError
from edge.held import Held, HeldRequest


def held(most: int, share: float = 1.0) -> tuple[Held, list[str]]:
    why: list[str] = []
    return Held(Limits(held_bytes=most, share_per_key=share), why.append), why


def test_what_is_too_much_in_all_is_refused_and_what_was_freed_is_free() -> None:
    all_of_it, why = held(100)
    first, second = HeldRequest(all_of_it, "a"), HeldRequest(all_of_it, "b")
    first.grow(60)
    with pytest.raises(InferenceError) as told:
        second.grow(41)
    assert (told.value.row.http, told.value.retry_after) == (429, 1.0)
    assert "60 bytes, of at most 100" in told.value.message
    assert why == ["bytes"]
    second.grow(40)
    first.free()
    second.grow(60)
    assert all_of_it.total == 100


def test_a_key_leaves_a_part_to_others() -> None:
    all_of_it, why = held(100, 0.8)
    HeldRequest(all_of_it, "a").grow(80)
    with pytest.raises(InferenceError, match="this API key"):
        HeldRequest(all_of_it, "a").grow(1)
    assert why == ["key_bytes"]
    HeldRequest(all_of_it, "b").grow(20)


def test_there_is_room_for_one_whatever_its_size() -> None:
    all_of_it, _ = held(10, 0.5)
    HeldRequest(all_of_it, "a").grow(1000)
    with pytest.raises(InferenceError):
        HeldRequest(all_of_it, "b").grow(1)


@given(
    st.lists(st.tuples(st.integers(0, 4), st.sampled_from("abc"), st.integers(0, 50)), max_size=60)
)
def test_whatever_is_held_and_freed_the_sums_are_right(steps: list[tuple[int, str, int]]) -> None:
    all_of_it, _ = held(100, 0.6)
    live: list[tuple[HeldRequest, str, int]] = []
    for place, key, size in steps:
        if size == 0 and live:
            request, _, _ = live.pop(place % len(live))
            request.free()
            request.free()
            continue
        request = HeldRequest(all_of_it, key)
        try:
            request.grow(size)
        except InferenceError:
            continue
        live.append((request, key, size))
        assert all_of_it.total <= 100
    assert all_of_it.total == sum(size for _, _, size in live)
    for request, _, _ in live:
        request.free()
    assert all_of_it.total == 0
    assert not all_of_it._by_key
