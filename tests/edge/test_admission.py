"""The fair queue: whose turn it is, who is refused, and that nothing is ever lost in it."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from broker.errors import InferenceError
from edge.admission import AHEAD, PoolQueue

CAPACITY = 10_000


class Item:
    def __init__(self, key_id: str, log: list[Item], deadline: float = 1e9) -> None:
        self.key_id = key_id
        self.deadline = deadline
        self.launched = 0
        self._log = log

    def launch(self) -> None:
        self.launched += 1
        self._log.append(self)


@pytest.fixture
def launched() -> list[Item]:
    return []


def enter(queue: PoolQueue, *items: Item, now: float = 0.0, room: int = 1000) -> None:
    for item in items:
        queue.enter(item, now=now, room=room)


def full(slots: int, log: list[Item]) -> PoolQueue:
    """A queue whose window is filled by others."""
    queue = PoolQueue()
    queue.resize(slots, 1, capacity=CAPACITY)
    enter(queue, *(Item("others", log) for _ in range(queue.window)))
    log.clear()
    return queue


@pytest.mark.parametrize(
    ("slots", "edges", "window"),
    [(0, 1, AHEAD), (1, 1, 2), (64, 1, 128), (64, 3, 43), (1, 5, AHEAD), (3, 2, 3)],
)
def test_an_edge_publishes_at_most_its_share_of_twice_the_slots(
    slots: int, edges: int, window: int, launched: list[Item]
) -> None:
    queue = PoolQueue()
    queue.resize(slots, edges, capacity=CAPACITY)
    enter(queue, *(Item("a", launched) for _ in range(window + 5)))
    assert len(launched) == queue.outstanding == window
    assert queue.waiting == 5


@pytest.mark.parametrize("edges", [1, 3])
def test_r13_admission_leaves_a_tenth_of_the_queue_to_what_is_published_again(
    edges: int, launched: list[Item]
) -> None:
    queues = [PoolQueue() for _ in range(edges)]
    for queue in queues:
        queue.resize(100_000, edges, capacity=CAPACITY)
        enter(queue, *(Item("a", launched) for _ in range(CAPACITY)), room=2 * CAPACITY)
    assert len(launched) == 0.9 * CAPACITY


def test_a_greedy_key_does_not_delay_a_modest_one(launched: list[Item]) -> None:
    queue = full(1, launched)
    greedy = [Item("greedy", launched) for _ in range(100)]
    enter(queue, *greedy)
    modest = [Item("modest", launched) for _ in range(3)]
    enter(queue, *modest)
    for now in range(6):
        queue.vacate(float(now))
    assert [item.key_id for item in launched] == ["greedy", "modest"] * 3
    assert [item for item in launched if item.key_id == "greedy"] == greedy[:3]


def test_keys_take_turns_whatever_each_has_queued(launched: list[Item]) -> None:
    queue = full(1, launched)
    for key, count in (("a", 50), ("b", 10), ("c", 30)):
        enter(queue, *(Item(key, launched) for _ in range(count)))
    for now in range(30):
        queue.vacate(float(now))
    assert Counter(item.key_id for item in launched) == {"a": 10, "b": 10, "c": 10}


def test_a_key_that_leaves_and_comes_back_gets_no_extra_turns(launched: list[Item]) -> None:
    queue = full(1, launched)
    enter(queue, *(Item("steady", launched) for _ in range(40)))
    for now in range(20):
        enter(queue, Item("comes and goes", launched))
        queue.vacate(float(now))
        queue.vacate(float(now))
    counts = Counter(item.key_id for item in launched)
    assert abs(counts["steady"] - counts["comes and goes"]) <= 1


def test_a_newcomer_waits_behind_those_who_wait_though_the_window_has_grown_room(
    launched: list[Item],
) -> None:
    queue = full(4, launched)
    first = Item("a", launched)
    enter(queue, first)
    queue.resize(1, 1, capacity=CAPACITY)  # workers left: more is outstanding than may be
    for now in range(7):
        queue.vacate(float(now))
    assert launched == [first]
    assert queue.outstanding == 2


def test_a_larger_pool_releases_what_waits_at_once(launched: list[Item]) -> None:
    queue = full(1, launched)
    enter(queue, *(Item("a", launched) for _ in range(10)))
    queue.resize(4, 1, capacity=CAPACITY)
    assert len(launched) == 6


def test_a_full_queue_refuses_with_a_time_to_come_back(launched: list[Item]) -> None:
    queue = full(1, launched)
    with pytest.raises(InferenceError) as told:
        enter(queue, Item("a", launched), room=0)
    assert told.value.reason == "queue_full"
    assert told.value.retry_after is not None
    assert 1 <= told.value.retry_after <= 60
    assert (queue.waiting, queue.outstanding) == (0, 2)


def test_no_room_matters_only_to_those_who_would_have_to_wait(launched: list[Item]) -> None:
    queue = PoolQueue()
    enter(queue, Item("a", launched), room=0)
    assert len(launched) == 1


def busy(launched: list[Item], interval: float, count: int = 50) -> PoolQueue:
    """A queue that has released one request every `interval` seconds, and ten still wait."""
    queue = full(1, launched)
    enter(queue, *(Item("a", launched) for _ in range(count + 10)))
    for n in range(count):
        queue.vacate(n * interval)
    return queue


def test_a_request_that_cannot_make_its_deadline_is_refused_at_once(launched: list[Item]) -> None:
    queue = busy(launched, 1.0)
    now = 50.0
    assert queue.expected_wait() == pytest.approx(11, rel=0.1)
    with pytest.raises(InferenceError) as told:
        enter(queue, Item("a", launched, deadline=now + 5), now=now)
    assert told.value.reason == "queue_full"
    assert "deadline" in told.value.message
    assert told.value.retry_after == pytest.approx(11, rel=0.1)
    enter(queue, Item("a", launched, deadline=now + 20), now=now)
    assert queue.waiting == 11


def test_an_idle_hour_says_nothing_about_the_rate(launched: list[Item]) -> None:
    queue = busy(launched, 0.1)
    while queue.outstanding:
        queue.vacate(5.0)
    # An hour later a burst comes, and a minute of patience is plenty for it.
    enter(queue, *(Item("a", launched) for _ in range(10)), now=3600.0)
    for n in range(4):
        queue.vacate(3600.1 + n / 10)
    assert queue.expected_wait() < 2
    enter(queue, Item("a", launched, deadline=3660.0), now=3600.5)


def test_a_request_that_gives_up_leaves_its_place_and_no_trace(launched: list[Item]) -> None:
    queue = full(1, launched)
    items = [Item("a", launched) for _ in range(3)]
    enter(queue, *items)
    queue.forget(items[1])
    queue.forget(items[1])  # twice is once
    queue.forget(Item("never", launched))
    assert queue.waiting == 2
    for now in range(2):
        queue.vacate(float(now))
    assert launched == [items[0], items[2]]
    assert not queue._keys
    assert not queue._deficit


def test_ten_thousand_that_give_up_at_once_cost_no_search_for_each(launched: list[Item]) -> None:
    compared = 0

    class Compared(Item):
        def __eq__(self, other: object) -> bool:
            nonlocal compared
            compared += 1
            return self is other

        __hash__ = object.__hash__

    queue = full(1, launched)
    items = [Compared("a", launched) for _ in range(10_000)]
    enter(queue, *items, room=10_000)
    for item in reversed(items):
        queue.forget(item)
    assert queue.waiting == 0
    assert compared < len(items)


class Traffic(RuleBasedStateMachine):
    """Requests enter, end and give up in any order while pools and fleets change size."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = PoolQueue()
        self.log: list[Item] = []
        self.waiting: list[Item] = []
        self.running: list[Item] = []
        self.now = 0.0

    def settle(self) -> None:
        for item in list(self.waiting):
            if item.launched:
                self.waiting.remove(item)
                self.running.append(item)

    @rule(key=st.sampled_from("abc"), room=st.integers(0, 8), patience=st.floats(0, 20))
    def enter(self, key: str, room: int, patience: float) -> None:
        item = Item(key, self.log, deadline=self.now + patience)
        try:
            self.queue.enter(item, now=self.now, room=room - len(self.waiting))
        except InferenceError:
            assert not item.launched
            return
        self.waiting.append(item)
        self.settle()

    @precondition(lambda self: self.running)
    @rule(n=st.integers(0, 100), took=st.floats(0, 5))
    def end(self, n: int, took: float) -> None:
        self.now += took
        self.running.pop(n % len(self.running))
        self.queue.vacate(self.now)
        self.settle()

    @precondition(lambda self: self.waiting)
    @rule(n=st.integers(0, 100))
    def give_up(self, n: int) -> None:
        self.queue.forget(self.waiting.pop(n % len(self.waiting)))

    @rule(slots=st.integers(0, 6), edges=st.integers(1, 3))
    def resize(self, slots: int, edges: int) -> None:
        self.queue.resize(slots, edges, capacity=CAPACITY)
        self.settle()

    @rule(seconds=st.floats(0, 1000))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def counts_are_those_of_the_requests(self) -> None:
        assert self.queue.waiting == len(self.waiting)
        assert self.queue.outstanding == len(self.running)
        assert self.queue.expected_wait() >= 0

    @invariant()
    def nobody_waits_while_there_is_room(self) -> None:
        assert not self.waiting or self.queue.outstanding >= self.queue.window

    @invariant()
    def nobody_is_launched_twice(self) -> None:
        assert all(item.launched == 1 for item in self.log)

    def teardown(self) -> None:
        for _ in range(len(self.waiting) + len(self.running)):
            self.queue.vacate(self.now)
            self.settle()
        assert not self.waiting
        assert (self.queue.waiting, self.queue.outstanding) == (0, 0)
        assert not self.queue._keys
        assert not self.queue._deficit


TestTraffic = Traffic.TestCase
TestTraffic.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
