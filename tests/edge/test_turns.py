"""The queue of a pool: whose turn it is, how much lies published, and that nothing is lost in it."""

from __future__ import annotations

import heapq
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from edge import turns
from edge.admission import BELIEVED
from edge.turns import LAUNCHED, MAX_COST, PoolQueue

CAPACITY = 10_000


class Item:
    """A request that publishes itself when it is launched."""

    def __init__(self, key_id: str, log: list[Item], queue: PoolQueue) -> None:
        self.key_id = key_id
        self.launched = 0
        self._log = log
        self._queue = queue

    def launch(self) -> None:
        self.launched += 1
        self._log.append(self)
        self._queue.published += 1


class Pool:
    """A pool's queue, and workers that take what is published while they have slots."""

    def __init__(self, slots: int, edges: int = 1, *, capacity: int = CAPACITY) -> None:
        self.queue = PoolQueue()
        self.queue.resize(slots, edges, capacity=capacity, now=0.0)
        self.log: list[Item] = []
        self.slots = slots
        self.running = 0

    def items(self, key_id: str, count: int) -> list[Item]:
        return [Item(key_id, self.log, self.queue) for _ in range(count)]

    def enter(
        self, key_id: str, count: int = 1, *, weight: int = 1, cost: int = 1, now: float = 0.0
    ) -> list[Item]:
        items = self.items(key_id, count)
        for item in items:
            if self.queue.free(item.key_id):
                self.queue.launch(item)
            else:
                self.queue.wait(item, now, weight=weight, cost=cost)
        return items

    def work(self, now: float = 0.0) -> None:
        while self.queue.published and self.running < self.slots:
            self.running += 1
            self.queue.taken(now)

    def end(self, now: float = 0.0) -> None:
        """One of those that run ends, and workers take the next."""
        self.running -= 1
        self.queue.vacate(now)
        self.work(now)

    def keys(self) -> Counter[str]:
        return Counter(item.key_id for item in self.log)


def full(slots: int = 1) -> Pool:
    """A pool whose slots are taken by others, with as much published as may be."""
    pool = Pool(slots)
    while pool.queue.free("others"):
        pool.enter("others")
        pool.work()
    pool.log.clear()
    return pool


@pytest.mark.parametrize(
    ("slots", "edges", "share"),
    [(0, 1, 1), (1, 1, 1), (64, 1, 64), (64, 3, 22), (1, 5, 1), (3, 2, 2)],
)
def test_an_edge_publishes_at_most_its_share_of_the_slots_before_workers_take_any(
    slots: int, edges: int, share: int
) -> None:
    pool = Pool(slots, edges)
    pool.enter("a", share + 5)
    assert len(pool.log) == pool.queue.published == share
    assert pool.queue.waiting == 5


@pytest.mark.parametrize(("edges", "ahead"), [(1, 8), (2, 4), (3, 3), (100, 1)])
def test_once_the_slots_are_taken_little_lies_published(edges: int, ahead: int) -> None:
    """It is what a newcomer waits for: an eighth of what runs, where requests take long."""
    pool = Pool(64, edges)
    pool.slots = -(-64 // edges)  # the others are taken by other edges' requests
    pool.enter("a", 200)
    pool.work()
    assert pool.queue.published == ahead


def test_an_edge_whose_neighbours_are_idle_uses_all_slots() -> None:
    pool = Pool(64, 4)
    pool.enter("a", 100)
    pool.work()
    assert pool.running == 64


def test_what_workers_take_in_a_moment_lies_published_where_answers_are_quick() -> None:
    pool = Pool(64)
    pool.enter("a", 2000)
    pool.work()
    for n in range(300):  # 800 a second
        pool.end(n / 800)
    assert 0.8 * 800 * turns.REFILL_S <= pool.queue.published <= 1.2 * 800 * turns.REFILL_S
    for n in range(300):
        pool.end(1 + n / 8000)
    assert pool.queue.published == 64


def test_workers_that_leave_slots_empty_are_sent_little_more_than_they_take() -> None:
    """A provider may allow less than the workers have slots."""
    pool = Pool(64)
    pool.slots = 10
    pool.enter("a", 500)
    pool.work()
    for n in range(200):  # ten calls of a second each
        pool.end(n / 10)
    assert pool.running == 10
    assert pool.queue.published <= 10 * turns.BACKLOG_S + 1
    pool.slots = 64  # and then it allows more
    pool.work(20.0)
    for n in range(200):
        pool.end(20 + n / 64)
    assert pool.running == 64


def test_after_a_lull_a_burst_is_published_at_once() -> None:
    pool = Pool(64)
    for n in range(100):  # one at a time, a second apart
        pool.enter("a")
        pool.work(float(n))
        pool.end(n + 0.5)
    pool.log.clear()
    pool.enter("a", 64)
    assert len(pool.log) == 64


def test_what_waits_between_attempts_counts_as_launched() -> None:
    pool = Pool(4)
    pool.enter("a", 40)
    for _ in range(100):
        if pool.queue.published:
            pool.queue.taken(0.0)  # and fails, to be tried again later
    assert pool.queue.launched == LAUNCHED * 4


@pytest.mark.parametrize("edges", [1, 3])
def test_r13_admission_leaves_a_tenth_of_the_queue_to_what_is_published_again(edges: int) -> None:
    pools = [Pool(100_000, edges) for _ in range(edges)]
    for pool in pools:
        pool.enter("a", CAPACITY)
    assert sum(len(pool.log) for pool in pools) == 0.9 * CAPACITY


def test_a_greedy_key_does_not_delay_a_modest_one() -> None:
    pool = full()
    greedy = pool.enter("greedy", 100)
    pool.enter("modest", 3)
    for _ in range(6):
        pool.end()
    assert [item.key_id for item in pool.log] == ["modest", "greedy"] * 3
    assert [item for item in pool.log if item.key_id == "greedy"] == greedy[:3]


def test_a_key_that_is_new_in_the_round_passes_what_waits_once() -> None:
    pool = Pool(64)
    pool.enter("greedy", 200)
    pool.work()
    pool.log.clear()
    pool.enter("modest", 3)
    assert pool.keys() == {"modest": 1}  # past the eight that lie published
    for _ in range(4):
        pool.end()
    assert [item.key_id for item in pool.log[1:]] == ["greedy", "modest", "greedy"]


def test_new_keys_pass_what_waits_up_to_the_share_of_the_edge() -> None:
    pool = Pool(16, 2)
    pool.slots = 8  # the others are taken by the other edge's requests
    pool.enter("greedy", 200)
    pool.work()
    assert pool.queue.published == 1
    for n in range(100):
        pool.enter(f"key {n}")
    assert pool.queue.published == 8


def test_keys_take_turns_whatever_each_has_queued() -> None:
    pool = full()
    for key, count in (("a", 50), ("b", 10), ("c", 30)):
        pool.enter(key, count)
    for _ in range(30):
        pool.end()
    assert pool.keys() == {"a": 10, "b": 10, "c": 10}


def test_a_key_has_turns_by_its_weight() -> None:
    pool = full()
    pool.enter("light", 100)
    pool.enter("heavy", 100, weight=3)
    for _ in range(40):
        pool.end()
    assert pool.keys() == {"light": 10, "heavy": 30}


def test_a_key_that_gives_up_and_comes_again_is_not_new() -> None:
    pool = full()
    pool.enter("greedy", 40)
    for _ in range(20):
        (given_up,) = pool.enter("sly")
        pool.queue.forget(given_up)
        pool.enter("sly")
        pool.end()
        pool.end()
    assert abs(pool.keys()["greedy"] - pool.keys()["sly"]) <= 1


def test_large_requests_take_several_turns() -> None:
    pool = full()
    pool.enter("large", 100, cost=4)
    pool.enter("small", 100)
    for _ in range(50):
        pool.end()
    assert pool.keys() == {"large": 10, "small": 40}


@pytest.mark.parametrize(
    ("size", "output", "cost"),
    [
        (0, 0, 1),
        (2000, 1000, 1),
        (32_768, 0, 2),
        (0, 8192, 2),
        (65_536, 16_384, 5),
        (32 << 20, 0, MAX_COST),
        (0, 10**12, MAX_COST),
        (0, -5, 1),
    ],
)
def test_the_cost_of_a_request_is_in_its_tokens(size: int, output: int, cost: int) -> None:
    assert turns.cost(size, output) == cost


def test_a_key_that_leaves_and_comes_back_gets_no_extra_turns() -> None:
    pool = full()
    pool.enter("steady", 40)
    for _ in range(20):
        pool.enter("comes and goes")
        pool.end()
        pool.end()
    counts = pool.keys()
    assert abs(counts["steady"] - counts["comes and goes"]) <= 1


def test_a_newcomer_waits_behind_those_who_wait_though_room_has_come() -> None:
    pool = full(4)
    (first,) = pool.enter("a")
    pool.queue.resize(1, 1, capacity=CAPACITY, now=0.0)  # workers left: more runs than may
    pool.slots = 1
    while pool.queue.launched > LAUNCHED:
        assert not first.launched
        pool.end()
    pool.end()
    assert pool.log == [first]


def test_a_larger_pool_releases_what_waits_at_once() -> None:
    pool = full()
    pool.enter("a", 10)
    pool.queue.resize(4, 1, capacity=CAPACITY, now=0.0)
    assert len(pool.log) == 2
    pool.slots = 4
    pool.work()
    assert pool.running == 4


def busy(interval: float, key: str = "a") -> Pool:
    """A pool that has launched one request every `interval` seconds, and ten still wait."""
    pool = full()
    pool.enter(key, 60)
    for n in range(50):
        pool.end(n * interval)
    assert pool.queue.waiting == 10
    return pool


def test_the_wait_is_told_by_the_places_ahead_and_the_recent_rate() -> None:
    pool = busy(1.0)
    assert pool.queue.expected_wait("a") == pytest.approx(10, rel=0.1)


def test_a_key_with_nothing_queued_waits_one_turn_of_each_other() -> None:
    pool = busy(1.0)
    assert pool.queue.expected_wait("b") == pytest.approx(1, rel=0.1)
    pool.enter("b", 3)
    assert pool.queue.expected_wait("b") == pytest.approx(3 + 4, rel=0.1)
    assert pool.queue.expected_wait("a") == pytest.approx(10 + 3, rel=0.1)


def test_of_few_launches_no_wait_is_foretold() -> None:
    pool = full()
    pool.enter("a", 60)
    for n in range(15):
        assert pool.queue.expected_wait("a") == 0
        pool.end(n * 10.0)


def test_what_is_idle_foretells_no_wait() -> None:
    pool = busy(1.0)
    for _ in range(10):
        pool.end(60.0)
    assert not pool.queue.waiting
    assert pool.queue.expected_wait("a") == 0


def test_an_idle_hour_says_nothing_about_the_rate() -> None:
    pool = busy(1.0)
    while pool.running:
        pool.end(60.0)
    pool.enter("a", 30)
    for n in range(20):
        pool.end(3600 + n / 10)
    assert pool.queue.expected_wait("a") < 2


def test_a_pool_of_another_size_has_another_rate() -> None:
    pool = busy(1.0)
    pool.queue.resize(2, 1, capacity=CAPACITY, now=50.0)
    assert pool.queue.expected_wait("a") == 0


def test_a_request_that_gives_up_leaves_its_place_and_no_trace() -> None:
    pool = full()
    queue = pool.queue
    items = pool.enter("a", 3)
    queue.forget(items[1])
    queue.forget(items[1])  # twice is once
    queue.forget(*pool.items("never", 1))
    assert queue.waiting == 2
    for _ in range(2):
        pool.end()
    assert pool.log == [items[0], items[2]]
    assert not queue._lines


def test_ten_thousand_that_give_up_at_once_cost_no_search_for_each() -> None:
    compared = 0

    class Compared(Item):
        def __eq__(self, other: object) -> bool:
            nonlocal compared
            compared += 1
            return self is other

        __hash__ = object.__hash__

    pool = full()
    items = [Compared("a", pool.log, pool.queue) for _ in range(10_000)]
    for item in items:
        pool.queue.wait(item, 0.0)
    for item in reversed(items):
        pool.queue.forget(item)
    assert pool.queue.waiting == 0
    assert compared < len(items)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    slots=st.integers(1, 24),
    keys=st.integers(1, 5),
    spread=st.floats(0, 0.9),
)
def test_a_request_waits_no_less_than_was_foretold(
    seed: int, slots: int, keys: int, spread: float
) -> None:
    """Nobody is refused for a wait that would not have come: BELIEVED of it always does.

    Requests of several keys come in bursts to a pool whose calls take a second and more or less.
    """
    dice = random.Random(seed)
    pool = Pool(slots)
    foretold: list[tuple[Item, float, float]] = []
    ends: list[float] = []
    launched: dict[Item, float] = {}
    now = 0.0

    def settle() -> None:
        before = pool.running
        pool.work(now)
        for _ in range(pool.running - before):
            heapq.heappush(ends, now + dice.uniform(1 - spread, 1 + spread))
        for item in pool.log[len(launched) :]:
            launched[item] = now

    while len(foretold) < 400 or pool.running:
        if len(foretold) < 400 and dice.random() < 0.3:
            key = f"key {min(dice.randrange(keys), dice.randrange(keys))}"
            for _ in range(dice.randrange(1, 3 * slots)):
                wait = pool.queue.least_wait(key)
                (item,) = pool.enter(key, now=now)
                foretold.append((item, now, wait))
        settle()
        if ends:
            now = heapq.heappop(ends)
            pool.running -= 1
            pool.queue.vacate(now)
        settle()
    for item, came, wait in foretold:
        assert launched[item] - came >= BELIEVED * wait


class Traffic(RuleBasedStateMachine):
    """Requests enter, run, end and give up in any order while pools and fleets change size."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = Pool(0)
        self.queue = self.pool.queue
        self.waiting: list[Item] = []
        self.published: list[Item] = []
        self.running: list[Item] = []
        self.now = 0.0

    def settle(self) -> None:
        for item in list(self.waiting):
            if item.launched:
                self.waiting.remove(item)
                self.published.append(item)

    @rule(key=st.sampled_from("abc"), weight=st.integers(1, 4), cost=st.integers(1, MAX_COST))
    def enter(self, key: str, weight: int, cost: int) -> None:
        self.waiting += self.pool.enter(key, weight=weight, cost=cost, now=self.now)
        self.settle()

    @precondition(lambda self: self.published)
    @rule(n=st.integers(0, 100))
    def take(self, n: int) -> None:
        self.running.append(self.published.pop(n % len(self.published)))
        self.queue.taken(self.now)
        self.settle()

    @precondition(lambda self: self.running)
    @rule(n=st.integers(0, 100), took=st.floats(0, 5))
    def end(self, n: int, took: float) -> None:
        self.now += took
        self.running.pop(n % len(self.running))
        self.queue.vacate(self.now)
        self.settle()

    @precondition(lambda self: self.running)
    @rule(n=st.integers(0, 100))
    def try_again(self, n: int) -> None:
        self.published.append(self.running.pop(n % len(self.running)))
        self.queue.published += 1

    @precondition(lambda self: self.waiting)
    @rule(n=st.integers(0, 100))
    def give_up(self, n: int) -> None:
        self.queue.forget(self.waiting.pop(n % len(self.waiting)))

    @rule(slots=st.integers(0, 6), edges=st.integers(1, 3))
    def resize(self, slots: int, edges: int) -> None:
        self.queue.resize(slots, edges, capacity=CAPACITY, now=self.now)
        self.settle()

    @rule(seconds=st.floats(0, 1000))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def counts_are_those_of_the_requests(self) -> None:
        assert self.queue.waiting == len(self.waiting)
        assert self.queue.published == len(self.published)
        assert self.queue.launched == len(self.published) + len(self.running)
        assert sum(self.queue.waiting_of(key) for key in "abc") == len(self.waiting)
        assert self.queue.longest() <= len(self.waiting)
        for key in "abc":
            assert self.queue.expected_wait(key) >= 0

    @invariant()
    def nobody_waits_while_there_is_room(self) -> None:
        assert not self.waiting or self.published or self.queue.launched >= 2

    @invariant()
    def nobody_is_launched_twice(self) -> None:
        assert all(item.launched == 1 for item in self.pool.log)

    def teardown(self) -> None:
        while self.published or self.running:
            if self.published:
                self.take(0)
            self.end(0, 0.1)
        assert not self.waiting
        assert (self.queue.waiting, self.queue.launched, self.queue.published) == (0, 0, 0)
        assert not self.queue._lines


TestTraffic = Traffic.TestCase
TestTraffic.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
