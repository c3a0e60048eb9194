"""A worker's gate: who may call now, who waits here, who goes back, and what others are told."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping

import pytest

from broker import subjects
from broker.capacity import ANY, Allowance, Seen, Share
from broker.errors import InferenceError
from broker.limits import Configured, Quota
from broker.v1 import job_pb2
from workers.gate import HOLD_S, Gate, HandOn
from workers.keys import Keys
from workers.seats import Seats

INT, BG, BAT = subjects.INTERACTIVE, subjects.BACKGROUND, subjects.BATCH
_numbers = itertools.count()


def job(model: str = "m", **fields: object) -> job_pb2.Job:
    route = job_pb2.Route(provider="p", pool="main", model=model)
    return job_pb2.Job(request_id=f"r{next(_numbers)}", route=route, **fields)  # type: ignore[arg-type]


def allow(
    gate: Gate, share: Share, *, key: str = "", model: str = "m", epoch: int = 1, rest_s: float = 0
) -> None:
    shares = {"w": share}
    told = Allowance("p", key, model, epoch, slots=9, shares=shares, rest_s=rest_s)
    gate.told(told, "w")


async def call(
    seats: Seats, *, headers: Mapping[str, str] = {}, error: InferenceError | None = None
) -> None:
    """One call, and what came of it."""
    with contextlib.suppress(InferenceError), await seats.next(seats.key, own=False) as seat:
        seat.heard(headers, refused=error is not None)
        if error is not None:
            raise error


class Lines:
    """Lines of one model that wait outside, as a worker's batch lane has them."""

    def __init__(self, gate: Gate, *, begun: Callable[[], object] = lambda: None) -> None:
        self.waiting = Counter[str]()
        self.begun = 0
        self._gate = gate
        self._said = begun
        self._running: list[Seats] = []
        gate.line_up(self.waiting, self._begin)

    def wait(self, count: int = 1) -> None:
        self.waiting["m"] += count
        self._begin()

    def end(self) -> None:
        self._running.pop().release()

    def _begin(self) -> None:
        while self.waiting["m"] and (seats := self._gate.line_seats(job())) is not None:
            self.waiting["m"] -= 1
            self.begun += 1
            self._running.append(seats)
            self._said()


def too_many(retry_after: float | None = None) -> InferenceError:
    return InferenceError("upstream_rate_limit", "no", retry_after=retry_after)


@pytest.fixture
async def gate() -> Gate:
    return Gate(Keys(()), 64)


def seen(gate: Gate, model: str = "m") -> Seen:
    return next(one for one in gate.report() if one.model == model)


async def test_without_a_limit_everything_passes(gate: Gate) -> None:
    assert all(gate.seats(INT, job()) is not None for _ in range(500))
    assert gate.room(INT, 64) == 64
    assert gate.room(BAT, 64) == 64


async def test_calls_at_a_time_are_bounded_and_the_next_one_goes_when_one_ends(gate: Gate) -> None:
    allow(gate, Share(slots=2))
    first, second = (gate.seats(INT, job()) for _ in range(2))
    assert first is not None
    assert second is not None
    assert gate.seats(INT, job()) is None
    waits = asyncio.create_task(gate.admit(INT, job()))
    await asyncio.sleep(0.01)
    assert not waits.done()
    await call(first)
    assert (await waits).chosen
    second.release()  # a call that was not made counts no longer either
    assert gate.seats(INT, job()) is not None


async def test_a_rate_is_kept_whatever_the_number_of_calls(gate: Gate) -> None:
    allow(gate, Share(rate=50.0))
    begun = gate.now()
    for _ in range(20):
        await call(await gate.admit(INT, job()))
    assert gate.now() - begun >= 0.3


async def test_a_model_that_is_limited_keeps_no_other_one_waiting(gate: Gate) -> None:
    allow(gate, Share(slots=0))
    assert gate.seats(INT, job()) is None
    assert gate.seats(INT, job("other")) is not None


async def test_a_few_jobs_wait_here_and_the_others_go_back(gate: Gate) -> None:
    allow(gate, Share(slots=0))
    waiting = [asyncio.create_task(gate.admit(INT, job())) for _ in range(2)]
    await asyncio.sleep(0.01)
    with pytest.raises(HandOn) as back:
        await gate.admit(INT, job())
    assert 0 < back.value.delay_s < 0.5
    begun = gate.now()
    assert [type(end) for end in await asyncio.gather(*waiting, return_exceptions=True)] == [
        HandOn,
        HandOn,
    ]
    assert gate.now() - begun >= 0.8 * HOLD_S
    assert gate.waiting() == 0
    assert seen(gate).waiting  # the leader is to know that they were here


async def test_more_jobs_are_asked_for_again_after_some_went_back() -> None:
    asked = asyncio.Event()
    gate = Gate(Keys(()), 64, on_room=asked.set)
    allow(gate, Share(slots=0))
    waiting = [asyncio.create_task(gate.admit(INT, job())) for _ in range(2)]
    for _ in range(10):  # each of them puts it off
        await asyncio.sleep(0.01)
        with pytest.raises(HandOn):
            await gate.admit(INT, job())
        assert gate.room(INT, 64) == 0
    async with asyncio.timeout(0.9 * HOLD_S):
        while not gate.room(INT, 64):
            asked.clear()
            await asked.wait()
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_whoever_gives_up_leaves_the_line(gate: Gate) -> None:
    allow(gate, Share(slots=1))
    first = gate.seats(INT, job())
    assert first is not None
    gone, stays = (asyncio.create_task(gate.admit(INT, job())) for _ in range(2))
    await asyncio.sleep(0.01)
    gone.cancel()
    first.release()  # at the same time as the next one leaves
    assert (await stays).chosen
    assert gate.waiting() == 0


async def test_interactive_work_goes_first_then_background_then_batches(gate: Gate) -> None:
    allow(gate, Share(slots=1, durable=1))
    first = gate.seats(INT, job())
    assert first is not None
    order: list[str] = []
    lines = Lines(gate, begun=lambda: order.append(BAT))
    lines.wait()

    async def waits(lane: str) -> None:
        seats = await gate.admit(lane, job())
        order.append(lane)
        seats.release()

    waiting = [asyncio.create_task(waits(lane)) for lane in (BG, INT)]
    await asyncio.sleep(0.01)
    first.release()
    await asyncio.gather(*waiting)
    assert order == [INT, BG, BAT]


async def test_lines_that_wait_keep_nobody_from_waiting_here(gate: Gate) -> None:
    allow(gate, Share(slots=8, durable=7))
    lines = Lines(gate)
    lines.wait(60)
    assert lines.begun == 7
    assert gate.seats(INT, job()) is not None
    waits = [asyncio.create_task(gate.admit(INT, job())) for _ in range(2)]
    await asyncio.sleep(0.01)
    assert not any(one.done() for one in waits)
    for _ in range(2):  # what ends is theirs, though lines have waited for longer
        lines.end()
    assert all(seats.chosen for seats in await asyncio.gather(*waits))
    assert lines.begun == 7
    assert seen(gate).waiting == 53


async def test_background_work_that_waits_keeps_no_interactive_one_from_waiting(gate: Gate) -> None:
    allow(gate, Share(slots=4, durable=4))
    running = [gate.seats(BG, job()) for _ in range(4)]
    behind = [asyncio.create_task(gate.admit(BG, job())) for _ in range(2)]
    await asyncio.sleep(0.01)
    first = asyncio.create_task(gate.admit(INT, job()))
    await asyncio.sleep(0.01)
    assert running[0] is not None
    running[0].release()
    assert (await first).chosen
    assert [type(end) for end in await asyncio.gather(*behind, return_exceptions=True)] == [
        HandOn,
        HandOn,
    ]


async def test_jobs_of_many_limited_models_do_not_fill_the_slots(gate: Gate) -> None:
    models = [f"m{number}" for number in range(8)]
    for model in models:
        allow(gate, Share(slots=40), model=model)
        for _ in range(40):
            gate.seats(INT, job(model))
    waits = [asyncio.create_task(gate.admit(INT, job(model))) for model in models for _ in range(9)]
    await asyncio.sleep(0.01)
    assert 8 <= sum(not one.done() for one in waits) <= 16
    await asyncio.gather(*waits, return_exceptions=True)


async def test_a_line_begins_when_the_rate_lets_it(gate: Gate) -> None:
    allow(gate, Share(rate=50.0))
    lines = Lines(gate)
    lines.wait(20)
    began = gate.now()
    while lines.waiting["m"]:
        assert gate.now() - began < 5
        await asyncio.sleep(0.01)
    assert gate.now() - began >= 0.2


@pytest.mark.parametrize("free", [True, False])
async def test_a_long_queue_of_a_limited_model_goes_round_slowly(gate: Gate, free: bool) -> None:
    """Beside a free model, too, for which all slots are asked for."""
    allow(gate, Share(slots=2))
    back = 0

    async def one() -> None:
        nonlocal back
        while True:
            try:
                seats = await gate.admit(INT, job())
            except HandOn as exc:
                back += 1
                await asyncio.sleep(exc.delay_s)
            else:
                with await seats.next(None, own=False):
                    await asyncio.sleep(0.1)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one()) for _ in range(60)]
        for _ in range(20):
            if free:
                assert gate.seats(INT, job("free")) is not None
                assert gate.room(INT, 64) == 64
            await asyncio.sleep(0.1)
        for task in tasks:
            task.cancel()
    # 40 began; without a plan 60 come again 7 times a second.
    assert back < 60 + 3 * 60
    assert seen(gate).started >= 30


async def test_batches_have_what_is_left_to_them(gate: Gate) -> None:
    allow(gate, Share(slots=4, durable=3))
    assert gate.room(BAT, 64) == 5  # two of them may wait
    lines = [gate.seats(BAT, job()) for _ in range(4)]
    assert [line is not None for line in lines] == [True, True, True, False]
    assert gate.seats(INT, job()) is not None
    assert gate.seats(BAT, job("other")) is not None


async def test_a_provider_that_wants_to_be_left_alone_is(gate: Gate) -> None:
    seats = gate.seats(INT, job())
    assert seats is not None
    await call(seats, error=too_many(retry_after=0.3))
    assert gate.seats(INT, job()) is None
    assert seen(gate).rest_s == pytest.approx(0.3, abs=0.1)
    begun = gate.now()
    assert (await gate.admit(INT, job())).chosen
    assert gate.now() - begun >= 0.2


async def test_so_is_one_that_says_that_nothing_remains(gate: Gate) -> None:
    seats = gate.seats(INT, job())
    assert seats is not None
    headers = {
        "x-ratelimit-limit-requests": "10",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "300ms",
    }
    await call(seats, headers=headers)
    assert gate.seats(INT, job()) is None
    told = seen(gate)
    assert told.quotas == (Quota("requests", 10, 0, 1.0),)
    assert (told.answered, told.limited) == (1, 0)


async def test_a_rest_that_others_found_holds_here(gate: Gate) -> None:
    allow(gate, Share(), rest_s=30)
    with pytest.raises(InferenceError) as refusal:
        (await gate.admit(INT, job())).check()
    # Longer than a request waits: its caller, or the next candidate, has it at once.
    assert refusal.value.reason == "upstream_rate_limit"
    assert refusal.value.retry_after == 30
    assert gate.seats(INT, job("other")) is not None


async def test_refusals_bound_a_place_until_the_leader_has_spoken(gate: Gate) -> None:
    running = [gate.seats(INT, job()) for _ in range(10)]
    for refused in running[:7]:
        assert refused is not None
        await call(refused, error=too_many())
    await asyncio.sleep(0.25)
    assert gate.seats(INT, job()) is None  # three are carried
    allow(gate, Share(slots=8))
    assert gate.seats(INT, job()) is not None


async def test_what_a_leader_said_that_was_replaced_does_not_count(gate: Gate) -> None:
    allow(gate, Share(slots=1), epoch=2)
    allow(gate, Share(slots=5), epoch=1)
    assert gate.seats(INT, job()) is not None
    assert gate.seats(INT, job()) is None
    gate.forgotten("", "m")
    assert gate.seats(INT, job()) is not None


async def test_a_worker_that_the_leader_has_not_met_takes_little(gate: Gate) -> None:
    shares = {"other": Share(slots=9, rate=90.0)}
    gate.told(Allowance("p", "", "m", 1, slots=9, rate=90.0, shares=shares), "w")
    assert [gate.seats(INT, job()) is not None for _ in range(2)] == [True, False]


async def test_the_settings_bind_before_the_leader_has_spoken() -> None:
    gate = Gate(Keys(["k"]), 64, limits=Configured(concurrent=2))
    assert [gate.seats(INT, job()) is not None for _ in range(3)] == [True, True, False]
    (key,) = Keys(["k"]).all
    allow(gate, Share(slots=1), key=key.fingerprint, model=ANY)
    assert [gate.seats(INT, job("new")) is not None for _ in range(2)] == [True, False]


async def test_another_key_is_used_while_one_has_no_room() -> None:
    keys = Keys(["a", "b"])
    gate = Gate(keys, 64)
    for key in keys.all:
        allow(gate, Share(slots=1), key=key.fingerprint)
    first, second = gate.seats(INT, job()), gate.seats(INT, job())
    assert first is not None
    assert second is not None
    assert {first.key, second.key} == set(keys.all)
    assert gate.seats(INT, job()) is None


async def test_of_several_keys_the_one_with_the_fewest_calls_in_flight_is_used() -> None:
    gate = Gate(Keys(("one", "two", "three")), 64)
    taken = [gate.seats(INT, job()) for _ in range(30)]
    keys = [seats.key.fingerprint for seats in taken if seats is not None and seats.key is not None]
    assert set(Counter(keys).values()) == {10}
    slow = keys[0]
    for seats in taken:  # the calls of the others have ended
        if seats is not None and seats.key is not None and seats.key.fingerprint != slow:
            seats.release()
    after = [gate.seats(INT, job()) for _ in range(18)]
    assert slow not in {one.key.fingerprint for one in after if one is not None and one.key}
    # What one model has in flight says nothing of another.
    other = [gate.seats(INT, job("other")) for _ in range(30)]
    assert slow in {one.key.fingerprint for one in other if one is not None and one.key}


async def test_a_key_that_was_refused_is_told_to_all() -> None:
    keys = Keys(["a", "b"])
    gate = Gate(keys, 64)
    error = InferenceError("upstream_credentials", "no", upstream_status=401)
    keys.failed(keys.all[0], error, "m", (), gate.now())
    (told,) = gate.report()
    assert (told.key, told.model, told.rest_s) == (keys.all[0].fingerprint, ANY, 60)
    others = Keys(["a", "b"])
    gate = Gate(others, 64)
    gate.told(Allowance("p", told.key, ANY, 1, rest_s=told.rest_s), "w")
    used = {seats.key for _ in range(20) if (seats := gate.seats(INT, job())) is not None}
    assert used == {others.all[1]}


async def test_callers_own_keys_neither_wait_nor_count(gate: Gate) -> None:
    allow(gate, Share(slots=0))
    seats = gate.seats(INT, job(own_key=True))
    assert seats is not None
    assert not seats.chosen
    with await seats.next(None, own=True) as seat:
        seat.heard({"x-ratelimit-limit-requests": "1", "x-ratelimit-remaining-requests": "0"})
    assert gate.report() == []


async def test_each_further_call_of_an_attempt_has_its_own_seat(gate: Gate) -> None:
    allow(gate, Share(slots=2))
    seats = gate.seats(INT, job())
    assert seats is not None
    with await seats.next(None, own=False), await seats.next(None, own=False):
        third = asyncio.ensure_future(seats.next(None, own=False))
        await asyncio.sleep(0.01)
        assert not third.done()
    assert (await third) is not None


async def test_no_further_call_waits_longer_than_its_attempt_may_take(gate: Gate) -> None:
    allow(gate, Share(slots=1))
    seats = gate.seats(INT, job())
    assert seats is not None
    with await seats.next(None, own=False):
        with pytest.raises(InferenceError) as caught:
            await seats.next(None, own=False, within_s=0.02)
        assert (caught.value.reason, gate.waiting()) == ("deadline", 0)


async def test_tokens_are_paid_for_when_they_are_known(gate: Gate) -> None:
    allow(gate, Share(tokens=1000.0))
    seats = gate.seats(INT, job())
    assert seats is not None
    await call(seats)
    seats.settle(300)
    assert gate.seats(INT, job()) is None
    begun = gate.now()
    assert (await gate.admit(INT, job())).chosen
    assert gate.now() - begun >= 0.15


async def test_a_report_tells_of_places_where_something_happened(gate: Gate) -> None:
    def models() -> Iterator[str]:
        return (one.model for one in gate.report())

    for number in range(4000):
        gate.seats(INT, job(f"m{number}"))
    assert len(list(models())) == 200
    quiet = Gate(Keys(()), 64)
    seats = quiet.seats(INT, job())
    assert seats is not None
    await call(seats)
    assert [one.model for one in quiet.report()] == ["m"]
    assert quiet.report() == []


async def test_what_one_report_has_no_room_for_is_in_the_next_and_news_comes_first(
    gate: Gate,
) -> None:
    for model in [f"m{number}" for number in range(500)]:
        for _ in range(2):
            seats = gate.seats(INT, job(model))
            assert seats is not None
            await call(seats)
    seats = gate.seats(INT, job("refused"))
    assert seats is not None
    await call(seats, error=too_many(30))
    reports = [gate.report() for _ in range(4)]
    assert [len(report) for report in reports] == [200, 200, 101, 0]
    assert (reports[0][0].model, reports[0][0].rest_s) == ("refused", 30)
    told = Counter({one.model: one.answered for report in reports for one in report})
    assert told == Counter({f"m{number}": 2 for number in range(500)} | {"refused": 0})


async def test_places_that_nobody_uses_are_forgotten_though_nobody_reports(gate: Gate) -> None:
    runs = gate.seats(INT, job("runs"))
    for number in range(1200):
        seats = gate.seats(INT, job(f"m{number}"))
        assert seats is not None
        await call(seats)
    for number in range(3):
        allow(gate, Share(slots=1), model=f"m{number}")
    assert len(gate._places.limited) == 3
    assert len(list(gate._places)) == 1201  # all of them were just used
    for place in gate._places:
        place.used_at -= 61
    gate._places._forget_at = gate.now()
    assert gate.seats(INT, job("new")) is not None
    assert {place.model for place in gate._places} == {"runs", "new"}
    assert not gate._places.limited
    assert runs is not None


async def test_what_one_place_has_no_room_for_is_tried_less_and_less_often(gate: Gate) -> None:
    allow(gate, Share(slots=0))
    waiting = [asyncio.create_task(gate.admit(INT, job())) for _ in range(2)]
    await asyncio.sleep(0)
    tried = 0
    async with asyncio.timeout(10):
        began = gate.now()
        while gate.now() < began + 0.9 * HOLD_S:
            if gate.room(INT, 64):
                tried += 1
                with pytest.raises(HandOn):
                    await gate.admit(INT, job())
            await asyncio.sleep(0.005)
    # Every 50 ms it would be 18.
    assert 3 <= tried <= 7
    # A job of another model was behind them: there may be more.
    allow(gate, Share(slots=1), model="other")
    assert gate.seats(INT, job("other")) is not None
    with pytest.raises(HandOn):
        await gate.admit(INT, job())
    again = gate.now()
    async with asyncio.timeout(5):
        while not gate.room(INT, 64):
            await asyncio.sleep(0.005)
    assert gate.now() - again < 0.25
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_no_more_is_asked_for_than_a_rate_lets_begin_and_wait() -> None:
    gate = Gate(Keys(()), 64)
    allow(gate, Share(slots=40, rate=20.0))
    # Of a rate a second is worth 20, but what comes now begins one by one.
    seats = gate.seats(INT, job())
    assert seats is not None
    while gate.seats(INT, job()) is not None:
        pass
    asked = gate.room(INT, 64)
    for _ in range(asked):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.001):
                await gate.admit(INT, job())  # none goes back
    assert asked <= 5


async def test_room_is_asked_for_when_the_last_limit_of_a_place_is_over(gate: Gate) -> None:
    allow(gate, Share(), rest_s=0.2)
    assert gate.room(INT, 64) < 64
    async with asyncio.timeout(5):
        while gate.room(INT, 64) < 64:
            await asyncio.sleep(0.01)
