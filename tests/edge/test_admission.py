"""What an edge refuses, why, and what it says; and what it never refuses."""

from __future__ import annotations

import re

import pytest

from broker.config import Limits
from broker.errors import InferenceError
from broker.keys import KeyRecord
from broker.routing import Target
from broker.routing.world import Live
from broker.telemetry import Metrics
from edge.admission import Admission

TARGET = Target("sim", "main", "m", listed=True)
OTHER_POOL = Target("sim", "other", "m", listed=True)


class Request:
    """An exchange that waits, or was launched and published."""

    def __init__(self, admission: Admission, key: str, target: Target, deadline: float) -> None:
        self.key = KeyRecord(id=key, name=key, created_at=0)
        self.key_id = key
        self.raw = b""
        self.output_tokens = 0
        self.deadline = deadline
        self._queue = admission.of(target)

    def launch(self) -> None:
        self._queue.published += 1


class Edge:
    """An edge with one slot in a pool, whose workers take what is published at once."""

    def __init__(self, **limits: float) -> None:
        self.metrics = Metrics("test")
        self.admission = Admission(Limits(**limits), self.metrics)  # type: ignore[arg-type]
        self.admission.resize({("sim", "main"): 1, ("sim", "other"): 1}, 1, now=0.0)
        self.enter("others")
        self.admission.of(TARGET).taken(0.0)
        self.enter("others")

    def enter(
        self,
        key: str,
        count: int = 1,
        *,
        deadline: float = 1e9,
        now: float = 0.0,
        target: Target = TARGET,
        accepted: bool = False,
    ) -> None:
        for _ in range(count):
            request = Request(self.admission, key, target, deadline)
            self.admission.enter(request, target, now=now, accepted=accepted)

    def end(self, now: float) -> None:
        """The running request ends and the next one runs."""
        queue = self.admission.of(TARGET)
        queue.vacate(now)
        if queue.published:
            queue.taken(now)

    def refused(self, key: str, *, now: float = 0.0, deadline: float = 1e9) -> InferenceError:
        with pytest.raises(InferenceError) as told:
            self.enter(key, now=now, deadline=deadline)
        assert told.value.reason == "queue_full"
        assert told.value.row.http == 429
        assert told.value.retry_after is not None
        assert 1 <= told.value.retry_after <= 60
        return told.value

    def shown(self, name: str) -> float:
        text = self.metrics.render()[0].decode()
        return sum(
            float(v) for v in re.findall(rf"^millrace_{name}.* ([0-9.e+]+)$", text, re.MULTILINE)
        )


def busy(interval_s: float, waiting: int = 100) -> Edge:
    """An edge where one request ended every so many seconds for long, and some of key a wait."""
    edge = Edge()
    edge.enter("a", 50 + waiting)
    for n in range(50):
        edge.end(n * interval_s)
    assert edge.admission.waiting() == waiting
    return edge


def test_a_full_queue_refuses_everybody_with_a_time_to_come_back() -> None:
    edge = Edge(queue_size=10, share_per_key=1)
    edge.enter("a", 10)
    assert "10 requests wait" in edge.refused("b").message
    assert edge.refused("b").code == "queue_full"
    assert edge.admission.waiting() == 10
    assert edge.shown('refused_total{process="test",why="queue"}') == 2


def test_one_key_does_not_fill_the_queue_for_others() -> None:
    edge = Edge(queue_size=10, share_per_key=0.8)
    edge.enter("a", 8)
    assert "8 requests of this API key" in edge.refused("a").message
    assert edge.refused("a").code == "key_queue_full"
    edge.enter("b", 2)
    assert edge.shown('refused_total{process="test",why="key"}') == 2
    assert edge.shown('queue_waiting{keys="longest"') == 8
    assert edge.shown('queue_waiting{keys="others"') == 2


def test_the_share_of_a_key_counts_in_all_pools_together() -> None:
    edge = Edge(queue_size=10, share_per_key=0.8)
    edge.enter("a", 4)
    edge.enter("a", 1 + 4, target=OTHER_POOL)
    edge.refused("a")


def test_no_room_matters_only_to_those_who_would_have_to_wait() -> None:
    edge = Edge(queue_size=1)
    edge.enter("a")
    edge.refused("b")
    edge.enter("b", target=OTHER_POOL)


def test_r13_a_part_of_what_was_accepted_waits_whatever_waits_already() -> None:
    edge = Edge(queue_size=1)
    edge.enter("a")
    edge.enter("a", accepted=True)
    assert edge.admission.waiting() == 2


def test_what_moves_to_another_pool_takes_turns_there_and_leaves_its_place() -> None:
    admission = Admission(Limits(), Metrics("test"))
    admission.resize({("sim", "main"): 200, ("sim", "other"): 4}, 1, now=0.0)
    order: list[str] = []

    class Moving(Request):
        def launch(self) -> None:
            self._queue.published += 1
            order.append(self.key_id)

    def request(key: str, target: Target) -> Moving:
        moving = Moving(admission, key, target, 1e9)
        admission.enter(moving, target, now=0.0, accepted=False)
        return moving

    flood = [request("a", TARGET) for _ in range(100)]
    for _ in flood:
        admission.of(TARGET).taken(0.0)
    order.clear()
    fallback = admission.of(OTHER_POOL)
    for moving in flood:
        moving._queue = fallback
        admission.move(moving, TARGET, OTHER_POOL, now=0.0, launched=True)
    assert admission.of(TARGET).launched == 0
    assert fallback.published == len(order) == 4
    assert fallback.waiting == 96
    request("b", OTHER_POOL)
    for _ in range(8):
        fallback.taken(1.0)
        fallback.vacate(1.0)
    assert "b" in order[:8]
    assert admission.waiting() >= 80
    # Who has waited for too long there comes back, and is gone from that line.
    waiting, last = admission.waiting(), flood[-1]
    last._queue = admission.of(TARGET)
    admission.move(last, OTHER_POOL, TARGET, now=1.0, launched=False)
    assert admission.waiting() == waiting - 1
    assert admission.of(TARGET).launched == 1


def test_a_request_that_cannot_make_its_deadline_is_refused_at_once() -> None:
    edge = busy(1.0)
    told = edge.refused("a", now=50.0, deadline=90.0)
    assert told.code == "deadline_too_short"
    assert "about 98 s" in told.message
    assert "deadline" in told.message
    assert told.retry_after == pytest.approx(59, rel=0.1)
    edge.enter("a", now=50.0, deadline=150.0)
    assert edge.shown('refused_total{process="test",why="deadline"}') == 1


def test_who_has_nothing_waiting_is_not_refused_for_what_another_has() -> None:
    edge = busy(1.0, waiting=1000)
    edge.refused("a", now=50.0, deadline=80.0)
    edge.enter("b", now=50.0, deadline=55.0)


def test_the_time_that_a_model_takes_at_least_counts_too() -> None:
    edge = busy(1.0)
    for _ in range(32):
        edge.admission.answered(TARGET, 60.0)
    edge.refused("a", now=50.0, deadline=150.0)
    edge.admission.answered(TARGET, 0.1)  # somebody was answered at once
    edge.enter("a", now=50.0, deadline=150.0)


def test_an_idle_edge_refuses_nobody_however_slow_its_models_are() -> None:
    edge = busy(100.0)
    for n in range(102):
        edge.end(5000.0 + n)
    for _ in range(100):
        edge.admission.answered(TARGET, 1000.0)
    edge.enter("a", now=6000.0, deadline=6000.1)
    edge.enter("a", now=6000.0, deadline=6000.1)
    edge.enter("a", now=6000.0, deadline=6000.1)  # this one waits: nobody knows how long


def test_names_of_models_do_not_fill_the_memory() -> None:
    edge = Edge()
    for n in range(5000):
        edge.admission.answered(Target("sim", "main", f"m{n}", listed=False), 1.0)
    assert len(edge.admission._took) <= 1000


def test_what_waited_is_seen_in_the_metrics() -> None:
    edge = Edge()
    edge.enter("a", 3)
    for n in range(1, 5):
        edge.end(n * 2.0)
    assert edge.shown("queue_wait_seconds_count") == 3
    assert edge.shown("queue_wait_seconds_sum") == 2 + 4 + 6


@pytest.mark.parametrize(
    ("live", "waiting", "may"),
    [
        (Live(busy=1, slots=2), 0, True),
        (Live(busy=2, slots=2), 0, False),
        (Live(), 0, False),  # nobody knows of a slot
        (Live(busy=1, slots=2, resting=True), 0, False),
        (Live(busy=1, slots=2), 1, False),
    ],
    ids=["room", "full", "unknown", "failing", "somebody waits"],
)
def test_a_second_attempt_takes_a_place_that_nobody_needs(
    live: Live, waiting: int, may: bool
) -> None:
    edge = Edge()
    edge.enter("a", waiting)
    queue = edge.admission.of(TARGET)
    assert queue.waiting == waiting
    before = queue.launched
    assert edge.admission.hedge(TARGET, live) is may
    assert queue.launched == before + may
    if may:
        edge.admission.hedged(TARGET, "won", 1.0)
        assert queue.launched == before
        assert edge.shown("hedges_total") == 1
