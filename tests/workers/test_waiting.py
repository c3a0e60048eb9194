"""Lines that wait: who came first is first, and a slow model's make place for others'."""

from __future__ import annotations

import itertools

from broker.v1 import job_pb2
from workers.waiting import Line, Waiting

_numbers = itertools.count()


def line(model: str = "m", since: float = 0.0, *, large: bool = False) -> Line:
    job = job_pb2.Job(request_id=f"{next(_numbers)}", route=job_pb2.Route(model=model))
    if large:
        job.line.range.CopyFrom(job_pb2.FileRange(size=1))
    return Line(job, "", 0, again=False, since=since)


def waiting(*lines: Line, least: int = 2) -> Waiting:
    made = Waiting(least)
    for one in lines:
        made.add(one)
    return made


def test_each_kind_has_a_head_and_who_waits_longest_comes_first() -> None:
    first, second, other, large = line(), line(since=1), line("n", 0.5), line(large=True, since=2)
    lines = waiting(first, second, other, large)
    assert list(lines.heads()) == [first, other, large]
    assert (len(lines), lines.models) == (4, {"m": 3, "n": 1})


def test_who_takes_a_head_is_given_the_next_one() -> None:
    first, second, other = line(), line(), line("n", 1)
    lines = waiting(first, second, other)
    taken = []
    for head in lines.heads():
        lines.take(head)
        taken.append(head)
    assert taken == [first, second, other]
    assert (len(lines), lines.models) == (0, {})


def test_a_slow_model_keeps_what_it_begins_soon_and_the_rest_comes_when_it_is_its_turn() -> None:
    lines = waiting(*(line() for _ in range(200)))
    for _ in range(40):
        lines.take(next(iter(lines.heads())))
    lines.tick(2.0)  # 20 a second
    gone = lines.trim(1.5)
    assert len(lines) == 40
    assert [round(delay_s, 2) for _, delay_s in gone[:3]] == [2.05, 2.1, 2.15]
    assert max(delay_s for _, delay_s in gone) <= 5


def test_what_came_just_now_stays_whatever_the_number() -> None:
    lines = waiting(*(line() for _ in range(20)))
    assert lines.trim(0.5) == []


def test_a_model_of_which_none_begins_keeps_a_few() -> None:
    lines = waiting(*(line() for _ in range(20)), line("n"))
    assert len(lines.trim(5.0)) == 18
    assert lines.models == {"m": 2, "n": 1}
    assert len(lines.old(1.0)) == 3
    assert len(lines) == 0
