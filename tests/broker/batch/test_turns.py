"""Windows and turns: never far ahead, tenants alike, deadlines first, and states only forward."""

from __future__ import annotations

from collections import Counter

import pytest

from broker.batch import states
from broker.batch.chunks import LINES
from broker.batch.window import LARGEST, SMALLEST, Rates, Turns, window
from broker.v1 import batch_pb2


@pytest.mark.parametrize(
    ("slots", "rate", "expected"),
    [
        (0, 0.0, SMALLEST),
        (4, 1.0, SMALLEST),
        (100, 1.0, 400),
        (100, 1000.0, 3000),
        (100, 1e9, LARGEST),
    ],
)
def test_the_window_follows_slots_and_rate(slots: int, rate: float, expected: int) -> None:
    assert window(slots, rate) == expected
    assert window(slots, rate) >= LINES


def test_a_rate_forgets_a_moment_of_silence_but_not_at_once() -> None:
    rates = Rates()
    assert rates.of("s") == 0
    rates.seen("s", 100, 1.0)
    assert rates.of("s") == 100
    rates.seen("s", 0, 1.0)
    assert 50 < rates.of("s") < 100
    rates.seen("s", 1000, 1.0)
    assert rates.of("s") == 1000


def test_owners_take_turns_by_lines_and_one_s_batches_go_by_deadline() -> None:
    turns = Turns()
    ready = {"a": [(9.0, "late"), (1.0, "soon")], "b": [(5.0, "other")]}
    lines = Counter[str]()
    for _ in range(100):
        batch = turns.next(ready, 0)
        assert batch in {"soon", "other"}
        tenant, size = ("a", 10) if batch == "soon" else ("b", 30)
        turns.served(tenant, batch, size)
        lines[tenant] += size
    assert abs(lines["a"] - lines["b"]) <= 40
    assert turns.next({"a": []}, 0) is None


def test_batches_of_one_owner_that_end_at_nearly_the_same_time_take_turns() -> None:
    turns = Turns()
    for _ in range(50):
        turns.served("a", turns.next({"a": [(1000.0, "large")]}, 0) or "", 10)
    ready = {"a": [(1000.0, "large"), (1090.0, "small"), (1110.0, "late")]}
    lines = Counter[str]()
    for _ in range(20):
        batch = turns.next(ready, 0) or ""
        turns.served("a", batch, 10)
        lines[batch] += 10
    assert lines == {"large": 100, "small": 100}
    # Soon it is due, and goes alone.
    turns.served("a", "large", 100)
    assert turns.next(ready, 900) == turns.next(ready, 2000) == "large"
    # One that was away, or has just come, takes nobody else's turns for that.
    turns.served("a", "large", 1000)
    turns.keep({"a"}, {"large"})
    assert [turns.next(ready, 0) for _ in range(2)] == ["large"] * 2


def test_who_comes_later_gets_no_more_than_its_share_from_then_on() -> None:
    turns = Turns()
    for _ in range(50):
        assert turns.next({"a": [(1.0, "x")]}, 0) == "x"
        turns.served("a", "x", 10)
    lines = Counter[str]()
    for _ in range(20):
        batch = turns.next({"a": [(1.0, "x")], "b": [(1.0, "y")]}, 0) or ""
        turns.served("a" if batch == "x" else "b", batch, 10)
        lines[batch] += 10
    assert lines["x"] == lines["y"]


def record(status: batch_pb2.BatchStatus.ValueType) -> batch_pb2.StoredBatch:
    return batch_pb2.StoredBatch(id="batch_1", status=status, expires_at=100)


def test_states_only_go_forward() -> None:
    one = record(states.VALIDATING)
    assert states.begin(one, 1)
    assert not states.begin(one, 2)
    assert not states.fail(one, [], 2)
    assert states.finalize(one, 3)
    assert not states.cancel(one, 4)
    assert states.finish(one, "out", "", 5)
    assert one.status == states.COMPLETED
    assert not states.finish(one, "other", "", 6)
    assert (one.in_progress_at, one.finalizing_at, one.completed_at) == (1, 3, 5)


def test_a_batch_stops_when_it_is_cancelled_or_late_and_only_once() -> None:
    one = record(states.IN_PROGRESS)
    assert states.due_stop(one, 99) == ""
    assert states.due_stop(one, 100) == states.BATCH_EXPIRED
    assert states.cancel(one, 50)
    assert states.due_stop(one, 50) == states.BATCH_CANCELLED
    one.stop_code = states.BATCH_CANCELLED
    assert states.due_stop(one, 500) == ""


def test_a_batch_that_was_late_but_has_every_line_is_completed() -> None:
    one = record(states.IN_PROGRESS)
    one.progress.total = one.progress.completed = 3
    one.stop_code = states.BATCH_EXPIRED
    states.finalize(one, 1)
    states.finish(one, "out", "", 2)
    assert one.status == states.COMPLETED


@pytest.mark.parametrize(
    ("failed", "completed", "code"),
    [(1, 3, None), (10, 10, None), (11, 9, "max_error_rate_exceeded"), (4, 0, None)],
)
def test_a_share_of_errors_counts_once_enough_lines_are_finished(
    failed: int, completed: int, code: str | None
) -> None:
    one = record(states.IN_PROGRESS)
    one.options.max_error_rate = 0.5
    one.progress.total, one.progress.failed, one.progress.completed = 1000, failed, completed
    why = states.overdrawn(one)
    assert (why.code if why else None) == code


def test_cost_stops_a_batch_when_it_is_reached() -> None:
    one = record(states.IN_PROGRESS)
    one.options.max_cost_nano = 10
    one.progress.cost.nano_usd = 9
    assert states.overdrawn(one) is None
    one.progress.cost.nano_usd = 10
    why = states.overdrawn(one)
    assert why is not None
    assert why.code == "max_cost_exceeded"
