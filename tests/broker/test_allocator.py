"""What places allow is found out, and divided among workers, without a clock or a network."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.allocator import Allocator, Want, Whole, divide, kept, settled
from broker.capacity import ANY, LONGEST_REST_S, Allowance, Member, Report, Seen, Share
from broker.limits import Configured, Limit, Quota, Tick
from broker.standing import LATELY_S
from tests.broker.fleet import Fleet, Provider

NONE = 10**9


@dataclass
class Case:
    provider: Provider
    refused: float
    used: float
    workers: int = 10
    total: int = 10_000
    limits: Configured | None = None


FLEETS: Mapping[str, Case] = {
    "all is advertised": Case(Provider(100, 500, 0.15, advertises=True), 0.02, 0.9),
    "both limits bind": Case(Provider(100, 500, 0.2, advertises=True), 0.02, 0.9),
    "calls at a time bind": Case(Provider(100, 500, 0.4, advertises=True), 0.02, 0.9),
    "answers are quick": Case(Provider(100, 500, 0.02, advertises=True), 0.02, 0.9),
    "refusals cost a rest": Case(
        Provider(100, 500, 0.15, advertises=True, retry_after_s=1), 0.02, 0.85
    ),
    "nothing is advertised": Case(Provider(100, 500, 0.2), 0.05, 0.8),
    "calls at a time, not advertised": Case(Provider(100, NONE, 0.4), 0.05, 0.8),
    "calls per second, not advertised": Case(Provider(NONE, 300, 0.2), 0.05, 0.7, total=8000),
    "a rest for each refusal, not advertised": Case(
        Provider(100, 500, 0.2, retry_after_s=1), 0.05, 0.7
    ),
    "one worker": Case(Provider(50, NONE, 0.2), 0.05, 0.8, workers=1),
    "fewer places than workers": Case(
        Provider(7, NONE, 0.2, advertises=True), 0.02, 0.75, total=600
    ),
    "the settings know it": Case(
        Provider(100, NONE, 0.2), 0.0, 0.9, limits=Configured(concurrent=100)
    ),
}


@pytest.mark.parametrize("name", FLEETS)
def test_a_fleet_keeps_within_what_is_allowed_and_uses_it(name: str) -> None:
    case = FLEETS[name]
    fleet = Fleet(case.provider, case.workers, case.limits, case.total)
    fleet.run()
    assert fleet.answered == case.total
    assert fleet.refused_after(5) <= case.refused
    assert fleet.used() >= case.used


wants = st.builds(
    Want,
    slots=st.floats(0, 500),
    durable=st.floats(0, 500),
    rate=st.floats(0, 1000),
    pressed=st.sampled_from([0.0, 1.0]),
    at=st.just(0.0),
)
fleets = st.dictionaries(
    st.text("abcdef", min_size=1, max_size=3), st.tuples(st.integers(1, 256), wants), min_size=1
)


@given(fleets, st.floats(1, 2000), st.floats(0.1, 5000), st.floats(0, 0.9))
def test_parts_are_never_more_than_the_whole(
    fleet: dict[str, tuple[int, Want]], slots: float, rate: float, reserve: float
) -> None:
    workers = {name: own for name, (own, _) in fleet.items()}
    asked = {name: want for name, (_, want) in fleet.items()}
    shares = divide(Whole(slots, rate, math.inf), workers, asked, reserve)
    parts = [share.slots or 0 for share in shares.values()]
    assert sum(parts) <= int(slots)
    # Nothing is left while somebody could use it.
    assert sum(parts) == min(int(slots), sum(workers.values()))
    assert all(share.slots is not None and share.slots <= workers[n] for n, share in shares.items())
    assert sum(share.rate or 0 for share in shares.values()) <= rate * 1.01 + 0.001 * len(fleet)
    durable = sum(share.durable or 0 for share in shares.values())
    assert durable <= int(slots) - kept(int(slots), reserve)
    assert all((share.durable or 0) <= (share.slots or 0) for share in shares.values())


@given(fleets, st.integers(1, 300), st.integers(1, 300))
def test_slots_move_only_when_nobody_may_use_them_any_more(
    fleet: dict[str, tuple[int, Want]], before: int, after: int
) -> None:
    workers = {name: own for name, (own, _) in fleet.items()}
    even = dict.fromkeys(fleet, Want(1.0, at=0.0))
    asked = {name: want for name, (_, want) in fleet.items()}
    old = divide(Whole(before, math.inf, math.inf), workers, even, 0)
    new = settled(divide(Whole(after, math.inf, math.inf), workers, asked, 0), old, asked, after)
    using = sum(max(new[name].slots or 0, old[name].slots or 0) for name in fleet)
    assert using <= max(after, before)


def test_who_wants_little_leaves_the_rest_to_others() -> None:
    asked = {"a": Want(1, at=0.0), "b": Want(30, at=0.0), "c": Want(30, at=0.0)}
    shares = divide(Whole(21, math.inf, math.inf), dict.fromkeys(asked, 64), asked, 0)
    assert {name: share.slots for name, share in shares.items()} == {"a": 1, "b": 10, "c": 10}


def test_background_work_gets_what_interactive_work_leaves_but_for_a_reserve() -> None:
    def durable(interactive: float) -> int:
        asked = {"a": Want(50 + interactive, 50, at=0.0), "b": Want(50, 50, at=0.0)}
        shares = divide(Whole(40, math.inf, math.inf), dict.fromkeys(asked, 64), asked, 0.05)
        return sum(share.durable or 0 for share in shares.values())

    assert durable(0) == 38
    assert durable(30) == 10
    assert durable(60) == 0


@dataclass
class World:
    """An allocator and its workers, at a second of their own."""

    members: list[Member] = field(default_factory=list)
    allocator: Allocator = field(default_factory=lambda: Allocator(1))
    now: float = 100.0

    def saw(self, worker: str, **seen: object) -> None:
        one = Seen("k", "m", **seen)  # type: ignore[arg-type]
        self.allocator.take(Report(worker, "p", 1.0, (one,)), self.now)

    def tick(self, seconds: float = 1.0) -> dict[str, Allowance]:
        self.now += seconds
        return {told.model: told for told in self.allocator.tick(self.members, self.now)}


def members(*names: str, limits: Configured | None = None) -> list[Member]:
    return [Member(name, "p", 64, ("k",), limits) for name in names]


def test_of_a_place_without_limits_nothing_is_told() -> None:
    world = World(members("a", "b"))
    for _ in range(5):
        world.saw("a", running=60, peak=60, waiting=9, started=500, answered=500)
        assert world.tick() == {}


def test_the_share_of_a_worker_that_died_returns_to_the_others() -> None:
    world = World(members("a", "b"))
    for worker in ("a", "b"):
        world.saw(worker, running=20, quotas=(Quota("concurrent", 20, 0, 0),))
    assert {name: share.slots for name, share in world.tick()["m"].shares.items()} == {
        "a": 10,
        "b": 10,
    }
    world.members = members("b")
    world.saw("b", running=20, waiting=5)
    assert world.tick()["m"].shares["b"].slots == 20


def test_what_the_settings_allow_is_divided_before_anybody_asks() -> None:
    limits = Configured(concurrent=10, requests_per_second=8, tokens_per_minute=600)
    told = World(members("a", "b", limits=limits)).tick()[ANY]
    assert told.shares == {
        "a": Share(slots=5, durable=5, rate=4.0, tokens=5.0),
        "b": Share(slots=5, durable=4, rate=4.0, tokens=5.0),
    }


def test_tokens_go_to_who_uses_tokens_and_calls_to_who_makes_them() -> None:
    allocator = Allocator(1)
    limits = Configured(requests_per_second=20, tokens_per_minute=60_000)
    for name, calls, tokens in (("a", 1, 900.0), ("b", 9, 100.0)):
        seen = Seen("k", "m", started=calls, answered=calls, tokens=tokens)
        allocator.take(Report(name, "p", 1.0, (seen,)), 1.0)
    told = {one.model: one for one in allocator.tick(members("a", "b", limits=limits), 1.0)}
    shares = told["m"].shares
    assert [shares[name].rate for name in "ab"] == pytest.approx([2, 18], rel=0.1)
    assert [shares[name].tokens for name in "ab"] == pytest.approx([900, 100], rel=0.1)


def test_a_rest_reaches_everybody_and_is_not_believed_for_ever() -> None:
    world = World(members("a", "b"))
    world.saw("a", started=1, limited=1, rest_s=7.0)
    assert world.tick(0.1)["m"].rest_s == pytest.approx(6.9)
    assert world.tick(0.1) == {}  # they count it down themselves
    world.saw("a", started=1, limited=1, rest_s=86_400.0)
    assert world.tick()["m"].rest_s <= LONGEST_REST_S


def test_how_a_place_stands_is_what_workers_reported_lately() -> None:
    world = World(members("a", "b"))
    world.saw("a", running=12, peak=12, waiting=3, started=64, answered=3, limited=52)
    world.saw("b", running=4, started=9, limited=5, rest_s=7.0)
    world.tick()
    (one,) = world.allocator.standings(world.now)
    assert (one.place, one.running, one.waiting) == (("p", "k", "m"), 16, 3)
    assert (one.limited, one.limited_lately) == (57, 57)
    assert (one.slots, one.why, one.rest_s) == (16, "found", 6.0)
    assert one.shares.keys() == {"a", "b"}
    world.now += 5  # and then nothing is heard of the workers any more
    (one,) = world.allocator.standings(world.now)
    assert (one.running, one.waiting, one.rest_s) == (0, 0, 1.0)
    world.now += LATELY_S
    world.saw("a", started=2, limited=1)
    world.tick(0.1)
    (one,) = world.allocator.standings(world.now)
    assert (one.limited, one.limited_lately) == (58, 1)


def test_a_place_without_limits_stands_as_it_is_used() -> None:
    world = World(members("a"))
    world.saw("a", running=60, started=500, answered=500)
    world.tick()
    (one,) = world.allocator.standings(world.now)
    assert (one.slots, one.rate, one.why, one.running, one.limited) == (None, None, "", 60, 0)


def test_a_successor_goes_on_from_what_was_found_out() -> None:
    world = World(members("a"))
    world.saw("a", running=12, peak=12, started=64, answered=3, limited=52)
    before = world.tick()["m"]
    assert before.slots == 12
    world.allocator = Allocator(2)
    world.allocator.recall([before], world.now)
    after = world.tick()["m"]
    assert (after.slots, after.epoch, after.shares["a"].slots) == (12, 2, 12)
    for _ in range(10):  # and tries for more after a while
        world.saw("a", running=12, peak=12, waiting=5, answered=1)
        world.tick()
    (told,) = world.allocator.allowances()
    assert (told.slots or 0) > 12


def test_a_successor_knows_what_was_advertised_before_anybody_reports() -> None:
    world = World(members("a"))
    quotas = (Quota("concurrent", 20, 0, 0), Quota("requests", 100, 50, 1.0))
    world.saw("a", running=5, quotas=quotas)
    before = world.tick()["m"]
    world.allocator = Allocator(2)
    world.allocator.recall([before], world.now)
    (after,) = world.tick().values()
    assert (after.slots, after.rate, after.epoch) == (20, 96, 2)


def test_a_long_window_may_be_used_at_once_and_then_as_it_refills() -> None:
    def rate(remaining: float) -> float:
        limit = Limit()
        tick = Tick(quotas=[Quota("requests", 600, remaining, 60.0)])
        limit.adapt(tick, 0.0)
        return limit.of(None, 0.0)[1]

    assert rate(600) > 100
    assert rate(20) == pytest.approx(9.6)


def test_slow_answers_take_the_limit_back() -> None:
    limit = Limit()
    limit.adapt(Tick(limited=50, started=100, _peaks={"a": 40}), 0.0)
    assert limit.of(None, 0)[0] == 40
    for second in range(1, 30):
        answer_s = 1.0 if second < 20 else 3.0
        tick = Tick(answered=20, answered_s=20 * answer_s, waiting=1, _peaks={"a": 20})
        limit.adapt(tick, float(second))
    assert limit.of(None, 30)[0] < 35
