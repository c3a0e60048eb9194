"""Two attempts at one request: who wins, who pays, and what happens when either fails."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from broker.routing.world import Rules
from broker.v1 import generation_pb2
from edge.admission import HedgeBudget
from edge.attempt import Attempt
from edge.hedged import hedge_after
from tests.edge.story import DONE, STOP, A, B, Session, Story, failed, started, text, texts
from tests.edge.story import until as until_it


async def both(story: Story) -> list[Attempt]:
    """The two attempts, once the second one was published."""
    await until_it(lambda: len(story.host.published) == 2)
    return story.host.published


class Race(Story):
    """A request whose second attempt runs, granted as the first one is."""

    def __init__(self, *, stream: bool = True) -> None:
        super().__init__(targets=(A, B), stream=stream, hedge_after_s=0.001)

    async def start(self) -> Race:
        self.first_session = self.begin()
        self.first, self.second = await both(self)
        self.second_session = Session("another")
        self.exchange.granted(self.second, self.second_session, alone=False)
        return self


async def test_the_next_candidate_is_asked_too_and_the_same_one_where_there_is_no_other() -> None:
    for targets, expected in (((A, B), [A, B]), ((A,), [A, A])):
        story = Story(targets=targets, hedge_after_s=0.001)
        story.begin()
        one, other = await both(story)
        assert [one.target, other.target] == expected
        assert (one.number, other.number) == (1, 2)
        assert one.secret != other.secret
        exchange = story.exchange
        assert exchange.attempts == (one, other)
        assert (exchange.current(1), exchange.current(2), exchange.current(3)) == (one, other, None)
        story.exchange.close()


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("winner", ["first", "second"])
async def test_the_first_content_wins_and_the_other_is_stopped_at_once(
    winner: str, stream: bool
) -> None:
    race = await Race(stream=stream).start()
    won, lost = race.first, race.second
    stopped, target = race.second_session, B
    if winner == "second":
        won, lost = lost, won
        stopped, target = race.first_session, A
    race.say_as(lost, started("loser"))
    race.say_as(won, started("winner"))
    race.say_as(won, text("Hel"))
    assert stopped.killed == ["superseded"]
    assert race.host.vacated == [target]
    race.say_as(lost, text("nobody hears this"), STOP, DONE)
    race.say_as(won, text("lo"), STOP, DONE)
    events = await race.read()
    assert (events[0].started.model, texts(events)) == ("winner", "Hello")
    assert [number for number, _ in race.host.charges] == [won.number]
    assert race.exchange.plan.target == won.target
    word = "won" if winner == "second" else "lost"
    assert race.exchange.route == f"hedge b/m {word}"
    assert race.host.withdrawn == []


Happens = Callable[["Race", Attempt], None]


def _fails(race: Race, attempt: Attempt) -> None:
    race.say_as(attempt, failed("upstream_error"))


def _is_lost(race: Race, attempt: Attempt) -> None:
    race.exchange.lost(attempt)


def _is_handed_back(race: Race, attempt: Attempt) -> None:
    race.exchange.handed_back(attempt)


@pytest.mark.parametrize("happens", [_fails, _is_lost, _is_handed_back])
@pytest.mark.parametrize("which", ["first", "second"])
async def test_one_that_ends_early_leaves_the_other_to_answer(which: str, happens: Happens) -> None:
    race = await Race().start()
    over, left = race.first, race.second
    if which == "second":
        over, left = left, over
    happens(race, over)
    assert len(race.host.published) == 2  # no third attempt
    assert race.host.vacated == [over.target]
    race.say_as(over, text("too late"))
    race.say_as(left, started(), text("x"), STOP, DONE)
    assert texts(await race.read()) == "x"
    assert [number for number, _ in race.host.charges] == [left.number]
    outcome = "failed" if which == "second" else "took over"
    assert race.exchange.route == f"hedge b/m {outcome}"


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
async def test_a_worker_that_is_lost_with_both_is_one_lost_worker(order: tuple[int, int]) -> None:
    race = await Race().start()
    race.second_session.worker = race.first_session.worker
    attempts = race.exchange.attempts
    for place in order:
        race.exchange.lost(attempts[place])
    assert (race.plan.losses, len(race.host.published)) == (1, 3)
    assert race.exchange.attempts == (race.attempt,)


async def test_when_both_fail_the_plan_goes_on_where_the_second_one_was() -> None:
    race = await Race().start()
    race.say_as(race.first, failed("upstream_unreachable"))
    race.say_as(race.second, failed("invalid_request"))
    error = await race.told()
    assert (error.reason, error.provider) == ("upstream_unreachable", "a")
    assert "(tried: a/m: upstream_unreachable; b/m: invalid_request)" in error.message
    assert len(race.host.over) == 1


async def test_what_is_never_routed_around_ends_both() -> None:
    race = await Race().start()
    race.say_as(race.first, failed("content_policy_violation"))
    assert (await race.told()).reason == "content_policy_violation"
    assert race.second_session.killed == ["superseded"]
    assert race.host.vacated == [B]


async def test_a_caller_that_leaves_stops_both() -> None:
    race = await Race().start()
    race.exchange.close()
    assert race.first_session.killed == race.second_session.killed == ["cancelled"]
    assert race.exchange.attempts == (race.first,)
    assert not race.exchange.wants(race.first)
    assert not race.exchange.wants(race.second)


async def test_a_second_attempt_that_still_waits_is_withdrawn() -> None:
    story = Story(targets=(A, B), hedge_after_s=0.001)
    story.begin()
    await until_it(lambda: len(story.host.published) == 2)
    story.say_as(story.host.published[0], started(), text("x"))
    assert story.host.withdrawn == [story.host.published[1]]


async def test_resumed_answers_and_the_winners_failures_go_on_as_usual() -> None:
    race = await Race().start()
    race.say_as(race.second, started(), text("shown "))
    assert texts(await race.read()) == "shown "
    race.say_as(race.second, failed("upstream_incomplete"))
    third = race.host.published[-1]
    assert (third.number, third.target) == (3, B)
    race.run()
    race.say(started(), text("shown and more"), STOP, DONE)
    assert texts(await race.read()) == "and more"
    assert len(race.host.charges) == 1


def _content(story: Story) -> None:
    story.say(started(), text("x"))


def _loses_a_worker(story: Story) -> None:
    story.exchange.lost(story.attempt)


def _no_room(story: Story) -> None:
    story.host.room = False


def _waits_to_try_again(story: Story) -> None:
    story.say(failed("upstream_rate_limit", retry_after_ms=5000))


@pytest.mark.parametrize("happens", [_content, _loses_a_worker, _no_room, _waits_to_try_again])
async def test_only_a_fresh_request_is_asked_twice_and_only_where_there_is_room(
    happens: Callable[[Story], None],
) -> None:
    story = Story(targets=(A,), hedge_after_s=0.01)
    story.begin()
    happens(story)
    published = len(story.host.published)
    over: list[bool] = []
    story.exchange._loop.call_later(0.03, over.append, True)
    await until_it(lambda: over)
    assert len(story.host.published) == published


async def test_a_superseded_second_attempt_is_replaced_by_the_next_number() -> None:
    race = await Race().start()
    third = race.exchange.supersede(race.second)
    assert (third.number, third.target) == (3, B)
    assert race.exchange.attempts == (race.first, third)
    race.say_as(third, started(), text("x"), STOP, DONE)
    assert [number for number, _ in race.host.charges] == [3]


@pytest.mark.parametrize(
    ("asked", "rule", "after_s"),
    [
        (None, {}, 0),
        (None, {"m": 800}, 0.8),
        (None, {"other": 800}, 0),
        (200, {}, 0.2),
        (200, {"m": 800}, 0.2),
        (0, {"m": 800}, 0),
    ],
)
def test_the_request_says_when_and_else_the_settings(
    asked: int | None, rule: dict[str, int], after_s: float
) -> None:
    request = generation_pb2.Request()
    request.generate.model = "m"
    if asked is not None:
        request.platform.hedge_after_ms = asked
    assert hedge_after(request, Rules(hedge_after_ms=rule)) == after_s


def test_no_more_than_a_tenth_of_recent_requests_is_asked_twice() -> None:
    budget = HedgeBudget()
    assert sum(budget.spend() for _ in range(100)) == 10
    spent = 0
    for _ in range(1000):
        budget.earn()
        spent += budget.spend()
    assert 95 <= spent <= 100
