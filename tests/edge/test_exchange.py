"""One request's life: every transition, by a host that only writes down what is asked of it."""

from __future__ import annotations

import asyncio

import pytest

from broker.errors import InferenceError
from broker.v1 import event_pb2, generation_pb2, operations_pb2
from edge import exchange as exchange_module
from edge import intake
from edge.intake import CREDIT_PORTION
from tests.edge.story import (
    DONE,
    STOP,
    A,
    B,
    C,
    Event,
    Session,
    Story,
    failed,
    started,
    text,
    texts,
    until,
)

# The plain way.


async def test_an_answer_goes_through_and_is_charged_once() -> None:
    story = Story()
    session = story.begin()
    story.say(started())
    story.say(text("Hel"))
    assert texts(await story.read()) == "Hel"
    story.say(text("lo"), STOP, DONE)
    assert [e.WhichOneof("kind") for e in await story.read()] == [
        "text",
        "choice_finished",
        "completed",
    ]
    assert await story.read() == []
    assert await story.read() == []
    story.exchange.close()
    assert [(n, u.output_tokens) for n, u in story.host.charges] == [(1, 2)]
    assert story.host.over == [story.exchange]
    assert session.killed == []
    assert story.host.withdrawn == []


async def test_nothing_is_handed_out_before_content_so_that_a_failure_is_a_real_status() -> None:
    story = Story()
    story.begin()
    story.say(started())
    assert await story.quiet()
    story.say(failed("content_policy_violation"))
    error = await story.told()
    assert (error.reason, error.provider, error.attempt) == ("content_policy_violation", "a", 1)


async def test_a_whole_answer_is_handed_out_whole() -> None:
    story = Story(stream=False)
    story.begin()
    story.say(started(), text("Hel"))
    assert await story.quiet()
    story.say(text("lo"), STOP, DONE)
    assert texts(await story.read()) == "Hello"


async def test_started_comes_once_and_first() -> None:
    story = Story()
    story.begin()
    story.say(started("m-1"), started("m-2"), text("x"))
    kinds = [e.WhichOneof("kind") for e in await story.read()]
    assert kinds == ["started", "text"]


async def test_completed_twice_is_charged_once() -> None:
    story = Story()
    story.begin()
    story.say(started(), text("x"), STOP, DONE, DONE)
    story.say(DONE)
    story.say_as(story.attempt, DONE)
    assert len(story.host.charges) == 1
    assert len(story.host.over) == 1


async def test_nothing_follows_completed() -> None:
    story = Story()
    story.begin()
    story.say(started(), text("x"), STOP, DONE, text("more"), failed("internal"))
    assert texts(await story.read()) == "x"
    assert await story.read() == []


async def test_an_event_of_a_newer_worker_is_passed_over() -> None:
    story = Story()
    story.begin()
    unknown = Event.FromString(bytes([0xFA, 0x3F, 1]) + b"x")
    story.say(started(), unknown, text("x"))
    assert texts(await story.read()) == "x"


# Failures of a provider.


async def test_a_failure_before_content_is_tried_again_invisibly() -> None:
    story = Story()
    story.begin()
    story.say(started("first"), failed("upstream_error", retry_after_ms=20))
    assert story.exchange.attempt is None  # it holds no slot while it waits
    assert await story.quiet()
    await until(lambda: len(story.host.published) == 2)
    assert [a.number for a in story.host.published] == [1, 2]
    assert story.host.published[0].secret != story.host.published[1].secret
    story.run()
    story.say(started("second"), text("x"), STOP, DONE)
    events = await story.read()
    assert events[0].started.model == "second"
    assert len(story.host.charges) == 1
    assert story.host.charges[0][0] == 2


async def test_content_that_nobody_has_read_is_taken_back() -> None:
    story = Story()
    story.begin()
    story.say(started(), text("wrong"))
    story.say(failed("upstream_incomplete", retry_after_ms=1))
    await until(lambda: len(story.host.published) == 2)
    story.run()
    story.say(started(), text("right"), STOP, DONE)
    assert texts(await story.read()) == "right"


async def test_a_wait_for_the_next_try_is_as_long_as_the_provider_said() -> None:
    story = Story()
    story.begin()
    begun = asyncio.get_running_loop().time()
    story.say(failed("upstream_rate_limit", retry_after_ms=200))
    await until(lambda: len(story.host.published) == 2)
    assert 0.19 < asyncio.get_running_loop().time() - begun < 0.5


async def test_the_next_candidate_gets_the_request_and_its_place() -> None:
    story = Story(targets=(A, B))
    story.begin()
    story.say(failed("upstream_credentials"))
    assert [a.target for a in story.host.published] == [A, B]
    assert story.host.moves == [(A, B)]
    story.run()
    story.say(failed("upstream_credentials"))
    assert (await story.told()).provider == "b"
    assert story.host.moves == [(A, B)]


async def test_in_another_pool_a_request_waits_for_its_turn() -> None:
    story = Story(targets=(A, B))
    story.begin()
    story.host.full = True
    story.say(failed("upstream_credentials"))
    assert story.host.moves == [(A, B)]
    assert [a.target for a in story.host.published] == [A]
    assert not story.exchange.launched
    story.exchange.launch()  # its turn has come
    assert [a.target for a in story.host.published] == [A, B]
    assert story.exchange.launched


async def test_whoever_waits_too_long_for_a_turn_elsewhere_goes_on_to_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(exchange_module, "QUEUE_PATIENCE_S", 0.03)
    story = Story(targets=(A, B, C))
    story.begin()
    story.host.full = True
    story.say(failed("upstream_credentials"))
    await until(lambda: len(story.host.moves) == 2)
    assert story.host.moves == [(A, B), (B, C)]
    assert story.host.left == [B]  # its place in that line
    await asyncio.sleep(0.06)  # the last one may take its time
    assert len(story.host.moves) == 2
    story.exchange.launch()
    assert [a.target for a in story.host.published] == [A, C]


async def test_whose_turn_comes_in_time_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange_module, "QUEUE_PATIENCE_S", 0.03)
    story = Story(targets=(A, B, C))
    story.begin()
    story.host.full = True
    story.say(failed("upstream_credentials"))
    story.exchange.launch()
    story.run()
    await asyncio.sleep(0.06)
    assert story.host.moves == [(A, B)]
    assert [a.target for a in story.host.published] == [A, B]


async def test_what_passes_is_not_told_as_a_mistake_about_a_model_nobody_asked_for() -> None:
    story = Story(targets=(A, B))
    story.begin()
    story.say(failed("upstream_overloaded", retry_after_ms=60_000))
    story.run()
    story.say(failed("model_not_found"))
    error = await story.told()
    assert (error.reason, error.provider) == ("upstream_overloaded", "a")
    assert error.message == "said so (tried: a/m: upstream_overloaded; b/m: model_not_found)"


async def test_what_is_down_is_called_once_and_left_for_the_next_candidate() -> None:
    story = Story(targets=(A, B))
    story.begin()
    story.host.down.add(A)
    story.say(failed("upstream_error"))
    assert [a.target for a in story.host.published] == [A, B]


async def test_what_others_found_down_during_a_wait_is_not_called_again() -> None:
    story = Story(targets=(A, B))
    story.begin()
    story.say(failed("upstream_error", retry_after_ms=20))
    story.host.down.add(A)
    await until(lambda: len(story.host.published) == 2)
    assert story.attempt.target == B
    assert story.host.moves == [(A, B)]


async def test_a_limit_is_waited_for_though_the_breaker_is_open() -> None:
    story = Story(targets=(A, B))
    story.begin()
    story.host.down.add(A)
    story.say(failed("upstream_rate_limit", retry_after_ms=20))
    await until(lambda: len(story.host.published) == 2)
    assert story.attempt.target == A


async def test_a_failure_after_shown_content_is_resumed_where_it_broke_off() -> None:
    story = Story()
    story.begin()
    story.say(started("m-1"), text("Hello "))
    shown = texts(await story.read())
    story.say(failed("upstream_incomplete"))
    assert len(story.host.published) == 2  # at once
    story.run()
    story.say(started("m-2"), text("Hel"))
    assert await story.quiet()
    story.say(text("lo wor"))
    story.say(text("ld"), STOP, DONE)
    events = await story.read()
    assert shown + texts(events) == "Hello world"
    assert not any(e.HasField("started") for e in events)
    assert len(story.host.charges) == 1


async def test_a_resumed_answer_that_differs_ends_in_an_error_and_stops_its_upstream_call() -> None:
    story = Story()
    story.begin()
    story.say(started(), text("Hello"))
    await story.read()
    story.say(failed("upstream_incomplete"))
    session = story.run()
    story.say(started(), text("Help"))
    error = await story.told()
    assert (error.reason, error.phase) == ("worker_lost", "content")
    assert session.killed
    assert story.host.charges == []


async def test_a_resumed_answer_that_is_shorter_is_not_a_success() -> None:
    story = Story()
    story.begin()
    story.say(started(), text("Hello world"))
    await story.read()
    story.exchange.lost(story.attempt)
    story.run()
    story.say(started(), text("Hello"), DONE)
    assert (await story.told()).reason == "worker_lost"
    assert story.host.charges == []


async def test_text_that_was_read_before_a_failure_is_followed_by_the_error() -> None:
    story = Story()
    story.begin()
    story.say(started(), text("a"))
    assert texts(await story.read()) == "a"
    story.say(text("b"), failed("content_policy_violation"))
    assert texts(await story.read()) == "b"
    assert (await story.told()).reason == "content_policy_violation"


@pytest.mark.parametrize(
    "reason",
    ["upstream_overloaded", "upstream_rate_limit", "connect_timeout", "first_token_timeout"],
)
async def test_a_resumed_answer_survives_a_second_run_that_does_not_begin(reason: str) -> None:
    story = Story(targets=(A, B))
    story.host.down.add(A)  # nobody else can go on with it
    story.begin()
    story.say(started(), text("Hello "))
    shown = texts(await story.read())
    story.say(failed("upstream_incomplete", phase="content"))
    for number in (2, 3):
        story.run()
        story.say(failed(reason, phase="before_content", retry_after_ms=10))
        await until(lambda: len(story.host.published) == number + 1)  # noqa: B023
    story.run()
    story.say(started(), text("Hello world"), STOP, DONE)
    assert shown + texts(await story.read()) == "Hello world"
    assert {a.target for a in story.host.published} == {A}
    assert [number for number, _ in story.host.charges] == [4]


async def test_what_cannot_be_compared_is_not_run_again() -> None:
    story = Story()
    story.begin()
    story.say(started(), text("a"), Event(blob=event_pb2.BlobEvent()))
    await story.read()
    story.exchange.lost(story.attempt)
    assert (await story.told()).reason == "worker_lost"
    assert len(story.host.published) == 1


# Lost workers.


async def test_a_worker_lost_before_content_means_another_attempt_at_once() -> None:
    story = Story()
    story.begin()
    first = story.attempt
    story.exchange.lost(first)
    assert story.host.withdrawn == [first]
    assert [a.number for a in story.host.published] == [1, 2]
    story.exchange.lost(first)  # only once
    assert len(story.host.published) == 2
    assert story.plan.losses == 1


async def test_events_of_a_superseded_attempt_are_ignored() -> None:
    story = Story()
    story.begin()
    old = story.attempt
    story.exchange.lost(old)
    story.run()
    story.say_as(old, started(), text("late"), STOP, DONE)
    story.exchange.handed_back(old)
    assert story.host.charges == []
    assert len(story.host.published) == 2
    story.say(started(), text("x"), STOP, DONE)
    assert texts(await story.read()) == "x"
    assert [n for n, _ in story.host.charges] == [2]


async def test_lost_while_it_ran_alone_is_a_dead_letter_with_the_right_count() -> None:
    story = Story()
    story.begin()
    for _ in range(2):
        story.exchange.lost(story.attempt)
        story.run()
    story.exchange.granted(story.attempt, Session(), alone=True)
    story.exchange.lost(story.attempt)
    error = await story.told()
    assert error.reason == "poison"
    assert "3 workers" in error.message
    assert story.host.letters == [3]
    assert len(story.host.over) == 1


async def test_a_worker_that_drains_hands_its_request_on_and_nobody_is_blamed() -> None:
    story = Story()
    story.begin()
    story.say(started(), text("Hello"))
    await story.read()
    story.exchange.handed_back(story.attempt)
    assert story.plan.losses == 0
    story.run()
    story.say(started(), text("Hello world"), STOP, DONE)
    assert texts(await story.read()) == " world"


async def test_a_request_that_is_given_back_again_and_again_waits_in_between() -> None:
    story = Story()
    story.begin()
    story.exchange.handed_back(story.attempt)
    assert len(story.host.published) == 2  # at once
    story.run()
    story.exchange.handed_back(story.attempt)
    await asyncio.sleep(0.05)
    assert len(story.host.published) == 2
    await until(lambda: len(story.host.published) == 3)


async def test_what_lay_with_a_lost_worker_is_published_anew_and_not_counted() -> None:
    story = Story()
    story.exchange.launch()
    for count in range(2, 20):
        story.exchange.handed_back(story.attempt)
        assert len(story.host.published) == count
    assert story.plan.hand_backs == 0


async def test_a_drained_answer_that_cannot_be_resumed_ends_in_an_error() -> None:
    story = Story()
    story.begin()
    story.say(started(), text("a"), Event(audio=event_pb2.AudioDelta(data=b"x")))
    await story.read()
    story.exchange.handed_back(story.attempt)
    assert (await story.told()).reason == "worker_lost"


# The queue.


async def test_an_attempt_that_waits_too_long_goes_to_the_next_candidate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(exchange_module, "QUEUE_PATIENCE_S", 0.03)
    story = Story(targets=(A, B))
    story.exchange.launch()
    first = story.attempt
    await until(lambda: len(story.host.published) == 2)
    assert story.host.withdrawn == [first]
    assert story.attempt.target == B
    assert story.host.moves == [(A, B)]
    await asyncio.sleep(0.06)  # the last candidate may take its time
    assert len(story.host.published) == 2


async def test_a_granted_attempt_stays_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange_module, "QUEUE_PATIENCE_S", 0.02)
    story = Story(targets=(A, B))
    story.begin()
    await asyncio.sleep(0.05)
    assert len(story.host.published) == 1


async def test_an_attempt_published_anew_has_its_own_patience(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(exchange_module, "QUEUE_PATIENCE_S", 0.05)
    story = Story(targets=(A, B))
    story.exchange.launch()
    await asyncio.sleep(0.03)
    story.exchange.handed_back(story.attempt)
    await asyncio.sleep(0.03)  # the first one's patience is over
    story.run()
    story.exchange.on_events(story.attempt, [failed("upstream_error", retry_after_ms=100)], 1)
    story.exchange.close()
    timers = [h for h in asyncio.get_running_loop()._scheduled if not h._cancelled]  # type: ignore[attr-defined]
    assert not [h for h in timers if "Exchange" in repr(h)]


async def test_a_shown_answer_waits_for_its_own_model_however_long_the_queue(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(exchange_module, "QUEUE_PATIENCE_S", 0.02)
    story = Story(targets=(A, B))
    story.begin()
    story.say(started(), text("Hello "))
    shown = texts(await story.read())
    story.exchange.lost(story.attempt)
    await asyncio.sleep(0.06)
    assert [a.target for a in story.host.published] == [A, A]
    story.run()
    story.say(started(), text("Hello world"), STOP, DONE)
    assert shown + texts(await story.read()) == "Hello world"
    assert story.host.moves == []


async def test_content_that_came_but_was_not_read_may_still_go_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(exchange_module, "QUEUE_PATIENCE_S", 0.02)
    story = Story(targets=(A, B))
    story.begin()
    story.say(started(), text("wrong"))
    story.exchange.lost(story.attempt)
    await until(lambda: story.attempt.target == B)
    story.run()
    story.say(started(), text("right"), STOP, DONE)
    assert texts(await story.read()) == "right"


async def test_a_full_queue_is_tried_elsewhere_before_the_caller_is_told() -> None:
    story = Story(targets=(A, B))
    story.exchange.launch()
    full = InferenceError("queue_full", "full", retry_after=1)
    story.exchange.refused(story.attempt, full)
    assert [a.target for a in story.host.published] == [A, B]
    story.exchange.refused(story.attempt, full)
    assert (await story.told()).reason == "queue_full"
    assert len(story.host.over) == 1


async def test_a_refusal_of_an_older_attempt_means_nothing() -> None:
    story = Story()
    story.exchange.launch()
    old = story.attempt
    story.exchange.handed_back(old)
    story.exchange.refused(old, InferenceError("broker_unavailable", "no"))
    assert not story.exchange.done


async def test_a_superseding_attempt_is_the_only_one_that_counts() -> None:
    story = Story()
    story.exchange.launch()
    old = story.attempt
    new = story.exchange.supersede(old)
    assert (new.number, new.target) == (2, A)
    assert new.secret != old.secret
    story.exchange.lost(old)
    assert story.exchange.attempt is new


# The end.


async def test_the_deadline_in_the_fair_queue() -> None:
    story = Story(timeout_s=0.02)
    error = await story.told()
    assert error.reason == "queue_timeout"
    assert story.host.published == []
    assert len(story.host.over) == 1
    story.exchange.launch()  # its turn comes too late
    assert story.host.published == []


async def test_the_deadline_in_the_queue_withdraws_the_job() -> None:
    story = Story(timeout_s=0.02)
    story.exchange.launch()
    assert (await story.told()).reason == "queue_timeout"
    assert story.host.withdrawn == [story.attempt]


async def test_the_deadline_before_content_stops_the_upstream_call() -> None:
    story = Story(timeout_s=0.02)
    session = story.begin()
    story.say(started())
    error = await story.told()
    assert (error.reason, error.phase, error.provider) == ("deadline", "before_content", "a")
    assert session.killed == ["deadline"]


async def test_the_deadline_after_content_follows_what_was_read() -> None:
    story = Story(timeout_s=0.05)
    session = story.begin()
    story.say(started(), text("a"))
    await story.read()
    story.say(text("b"))
    await until(lambda: story.exchange.done)
    assert texts(await story.read()) == "b"
    error = await story.told()
    assert (error.reason, error.phase) == ("deadline", "content")
    assert session.killed == ["deadline"]


async def test_the_deadline_while_waiting_to_try_again() -> None:
    story = Story(timeout_s=0.3)
    story.begin()
    story.say(failed("upstream_rate_limit", retry_after_ms=250))
    story.exchange._out_of_time()
    await story.told()
    await asyncio.sleep(0.27)
    assert len(story.host.published) == 1


async def test_closing_in_each_state_stops_what_runs_and_leaves_nothing() -> None:
    waiting = Story()
    waiting.exchange.close()

    queued = Story()
    queued.exchange.launch()
    queued.exchange.close()
    assert queued.host.withdrawn == [queued.attempt]

    running = Story()
    session = running.begin()
    running.say(started(), text("a"))
    await running.read()
    running.exchange.close()
    assert session.killed == ["cancelled"]
    assert running.host.withdrawn == []  # its worker acks it

    backing_off = Story()
    backing_off.begin()
    backing_off.say(failed("upstream_error", retry_after_ms=30))
    backing_off.exchange.close()
    await asyncio.sleep(0.05)
    assert len(backing_off.host.published) == 1

    for story in (waiting, queued, running, backing_off):
        story.exchange.close()
        assert len(story.host.over) == 1
        assert story.host.charges == []
        if story.host.published:  # late events of a closed one
            story.say(text("late"), STOP, DONE)
        assert story.host.charges == []


async def test_a_cancelled_request_tells_its_reader() -> None:
    story = Story()
    session = story.begin()
    reader = asyncio.ensure_future(story.exchange.next())
    await asyncio.sleep(0)
    story.exchange.cancel()
    with pytest.raises(InferenceError) as told:
        await reader
    assert told.value.reason == "client_gone"
    assert session.killed == ["cancelled"]


async def test_a_cancel_that_comes_after_completion_changes_nothing() -> None:
    story = Story()
    session = story.begin()
    story.say(started(), text("x"), STOP, DONE)
    story.exchange.cancel()
    story.exchange.close()
    assert texts(await story.read()) == "x"
    assert await story.read() == []
    assert session.killed == []
    assert len(story.host.charges) == 1


# Credit.


async def test_credit_returns_as_the_reader_reads_and_no_sooner() -> None:
    story = Story()
    session = story.begin()
    story.say(started(), text("x"), size=CREDIT_PORTION)
    assert session.credits == []
    await story.read()
    assert session.credits == [CREDIT_PORTION]


async def test_credit_returns_in_portions_and_adds_up() -> None:
    story = Story()
    session = story.begin()
    sizes = [CREDIT_PORTION // 3] * 10
    for size in sizes:
        story.say(text("x"), size=size)
        await story.read()
    assert min(session.credits) >= CREDIT_PORTION
    assert sum(session.credits) + CREDIT_PORTION > sum(sizes)
    assert sum(session.credits) <= sum(sizes)


async def test_a_whole_answer_is_credited_as_it_comes() -> None:
    story = Story(stream=False)
    session = story.begin()
    story.say(text("x"), size=CREDIT_PORTION)
    assert session.credits == [CREDIT_PORTION]


async def test_a_replay_longer_than_the_credit_does_not_starve() -> None:
    story = Story()
    story.begin()
    page = "x" * CREDIT_PORTION
    for _ in range(20):
        story.say(text(page))
        await story.read()
    story.exchange.lost(story.attempt)
    session = story.run()
    # Nothing of this is new to the reader, who therefore reads nothing.
    for _ in range(20):
        story.say(text(page), size=CREDIT_PORTION)
    assert sum(session.credits) == 20 * CREDIT_PORTION
    story.say(text("y"), STOP, DONE)
    assert texts(await story.read()) == "y"


async def test_a_new_attempt_starts_with_its_own_credit() -> None:
    story = Story()
    story.begin()
    story.say(started(), text("x"), size=CREDIT_PORTION - 1)
    await story.read()
    story.exchange.lost(story.attempt)
    session = story.run()
    story.say(text("x"), text("y"), size=10)
    await story.read()
    assert session.credits == []


async def test_a_whole_answer_has_a_largest_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "MAX_ANSWER_BYTES", 1000)
    story = Story(stream=False)
    session = story.begin()
    story.say(text("x"), size=600)
    assert not story.exchange.done
    story.say(text("x"), size=600)
    error = await story.told()
    assert error.reason == "upstream_error"
    assert session.killed
    assert story.host.charges == []


async def test_too_many_vectors_are_the_callers_to_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "MAX_VECTORS_BYTES", 1000)
    asked = generation_pb2.Request()
    asked.embed.texts.append("x")
    story = Story(request=asked)
    story.begin()
    story.say(started(), size=600)
    story.say(Event(vectors=operations_pb2.Vectors(values=[b"[1]"])), size=600)
    error = await story.told()
    assert (error.reason, error.param) == ("invalid_request", "input")
    assert "base64" in error.message


async def test_a_tried_again_whole_answer_is_measured_afresh(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(intake, "MAX_ANSWER_BYTES", 1000)
    story = Story(stream=False)
    story.begin()
    story.say(text("x"), size=600)
    story.exchange.lost(story.attempt)
    story.run()
    story.say(text("y"), STOP, size=600)
    story.say(DONE)
    assert texts(await story.read()) == "y"
