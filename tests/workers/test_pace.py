"""What a worker tells of its provider's pace: worse at once, better by and by, forgotten soon."""

from __future__ import annotations

import pytest

from broker.presence import Pace, WorkerLease, decode_worker, encode
from broker.routing.spread import at
from broker.v1 import event_pb2, job_pb2, record_pb2
from workers.pace import Paces


def record(
    first_ms: int, duration_ms: int, tokens: int, **fields: object
) -> record_pb2.AttemptRecord:
    return record_pb2.AttemptRecord(
        route=job_pb2.Route(provider="p", model=str(fields.pop("model", "m"))),
        first_content_ms=first_ms,
        duration_ms=duration_ms,
        usage=event_pb2.Usage(output_tokens=tokens),
        outcome=fields.pop("outcome", record_pb2.OUTCOME_COMPLETED),  # type: ignore[arg-type]
        upstream_calls=1,
    )


def test_figures_are_of_the_stream() -> None:
    paces = Paces()
    paces.took(record(100, 300, 21), 0)
    assert paces.known(0) == {"m": Pace(100, 10, 70)}


def test_an_answer_that_came_whole_has_no_pace() -> None:
    paces = Paces()
    paces.took(record(300, 300, 21), 0)
    assert paces.known(0) == {"m": Pace(300, 0, 0)}


def test_worse_counts_at_once_and_better_by_and_by() -> None:
    paces = Paces()
    for first, duration in ((100, 300), (500, 1500), (100, 300)):
        paces.took(record(first, duration, 21), 0)
    pace = paces.known(0)["m"]
    assert pace.first_ms == pytest.approx(420)
    assert pace.token_ms == pytest.approx(50 - 0.2 * 40)
    assert pace.per_second == pytest.approx(14 + 0.2 * 56)


def test_failures_tell_nothing() -> None:
    paces = Paces()
    paces.took(record(1, 2, 3, outcome=record_pb2.OUTCOME_FAILED), 0)
    assert paces.known(0) == {}


def test_old_figures_are_forgotten_and_names_do_not_pile_up() -> None:
    paces = Paces()
    paces.took(record(100, 300, 21), 0)
    assert paces.known(61) == {}
    for number in range(500):
        paces.took(record(100, 300, 21, model=f"m{number}"), 100)
    assert len(paces.known(100)) == 64


def test_percentiles_are_of_the_answers_of_five_minutes() -> None:
    paces = Paces()
    paces.took(record(9000, 10_000, 100), 0)
    for number in range(99):  # 100 ms to 10 s; 200 to 2 tokens per second
        first = 100 + 100 * number
        paces.took(record(first, first + 1, (first + 1) // 5), 30 + number * 2)
    spread = paces.spreads(299)["m"]
    assert at(spread.first_ms, 0.5) == pytest.approx(5000, rel=0.04)
    assert at(spread.first_ms, 0.9) == pytest.approx(9000, rel=0.04)
    assert at(spread.first_ms, 1) == pytest.approx(9900, rel=0.04)
    assert at(spread.per_second, 0.5) == pytest.approx(200, rel=0.04)
    assert sum(spread.first_ms.values()) == 100
    assert sum(paces.spreads(301)["m"].first_ms.values()) == 99
    assert "m" not in paces.spreads(700)


def test_what_nobody_asks_for_is_forgotten_too() -> None:
    paces = Paces()
    for minute in range(1000):
        paces.took(record(100, 300, 21), minute * 60)
    assert len(paces._slices["m"]) <= 10


def test_what_came_whole_counts_for_the_speed_alone() -> None:
    paces = Paces()
    paces.took(record(1000, 1000, 50), 0)
    spread = paces.spreads(0)["m"]
    assert at(spread.first_ms, 0.5) is None
    assert at(spread.per_second, 0.5) == pytest.approx(50, rel=0.03)


def test_a_lease_carries_the_spreads_in_little_room() -> None:
    paces = Paces()
    for model in range(64):
        for number in range(100):
            paces.took(record(200 + number, 1200 + number, 80, model=f"m{model}"), number)
    lease = WorkerLease("w", "p", "main", 4, spreads=paces.spreads(100))
    written = encode(lease)
    assert decode_worker(written).spreads == lease.spreads
    assert len(written) < 20_000
