"""What a worker tells of its provider's pace: worse at once, better by and by, forgotten soon."""

from __future__ import annotations

import pytest

from broker.presence import Pace
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
