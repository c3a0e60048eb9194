from __future__ import annotations

import pytest

from broker import durable
from broker.dispatch import Plan
from broker.durable import Verdict
from broker.errors import InferenceError
from broker.routing import Target
from broker.v1 import event_pb2, inference_service_pb2, job_pb2, stored_pb2

QUEUED = stored_pb2.RESPONSE_STATUS_QUEUED
RUNNING = stored_pb2.RESPONSE_STATUS_IN_PROGRESS
CANCELLED = stored_pb2.RESPONSE_STATUS_CANCELLED


def record(
    status: stored_pb2.ResponseStatus.ValueType,
    attempt: int = 0,
    worker: str = "",
    losses: int = 0,
    *,
    alone: bool = False,
) -> stored_pb2.StoredResponse:
    claim = stored_pb2.ResponseClaim(worker=worker, losses=losses, alone=alone)
    return stored_pb2.StoredResponse(status=status, attempt=attempt, claim=claim)


@pytest.mark.parametrize(
    ("stored", "attempt", "again", "verdict"),
    [
        (record(QUEUED), 1, False, Verdict.RUN),
        (record(QUEUED), 1, True, Verdict.RUN),  # it was handed back before anybody claimed it
        (record(RUNNING, 1, "w"), 1, False, Verdict.SUPERSEDED),
        (record(RUNNING, 2, "w"), 1, False, Verdict.SUPERSEDED),
        (record(RUNNING, 1, "w"), 1, True, Verdict.RUN),
        (record(RUNNING, 1, "w"), 2, False, Verdict.RUN),  # the next attempt after a failure
        (record(RUNNING, 2, "w", 1), 1, True, Verdict.RUN_ALONE),
        (record(RUNNING, 1, "", 1), 1, True, Verdict.RUN),  # handed over, not lost
        (record(RUNNING, 3, "w", 2, alone=True), 1, True, Verdict.POISON),
        (record(CANCELLED, 1, "w"), 1, True, Verdict.FINISHED),
    ],
)
def test_a_job_runs_only_where_nobody_else_runs_it(
    stored: stored_pb2.StoredResponse, attempt: int, again: bool, verdict: Verdict
) -> None:
    assert durable.judge(stored, job_pb2.Job(attempt=attempt), again=again) is verdict


def test_each_claim_is_a_new_attempt_and_counts_the_lost_worker() -> None:
    stored, job = record(QUEUED), job_pb2.Job(attempt=1)
    durable.claim(stored, job, "one", alone=False)
    assert (stored.attempt, stored.claim.losses, stored.status) == (1, 0, RUNNING)
    durable.claim(stored, job, "two", alone=False)
    assert (stored.attempt, stored.claim.losses, stored.claim.worker) == (2, 1, "two")


def test_a_worker_that_lives_is_not_one_that_was_lost() -> None:
    job = job_pb2.Job(attempt=1)
    # It gave its claim up while nobody could be told, and nobody noticed.
    stored = record(RUNNING, 1, "one", alone=True)
    assert durable.survived(stored, "one", 1)
    assert durable.judge(stored, job, again=True) is Verdict.RUN
    assert durable.losses(stored, job) == 0
    # Another was given the job before it could say so, and one was really lost.
    stored = record(RUNNING, 1, "one", 1)
    durable.claim(stored, job, "two", alone=False)
    assert durable.losses(stored, job, "two") == 2
    assert durable.survived(stored, "one", 1)
    assert not durable.survived(stored, "one", 1)
    assert (stored.claim.worker, stored.claim.losses, stored.attempt) == ("two", 1, 2)


def test_what_comes_back_to_the_worker_that_had_it_was_not_lost() -> None:
    stored, job = record(RUNNING, 1, "one", 1, alone=True), job_pb2.Job(attempt=1)
    assert durable.judge(stored, job, again=True) is Verdict.POISON
    assert durable.judge(stored, job, again=True, worker="one") is Verdict.RUN
    durable.claim(stored, job, "one", alone=False)
    assert (stored.claim.losses, list(stored.claim.lost)) == (1, [])


def test_a_log_that_nobody_reads_begins_anew_and_one_that_is_read_does_not() -> None:
    stored, job = record(QUEUED), job_pb2.Job(attempt=1)
    durable.claim(stored, job, "one", alone=False)
    durable.claim(stored, job, "two", alone=False)
    assert stored.log_from == 2
    stored.watched = True
    durable.claim(stored, job, "three", alone=False)
    assert (stored.attempt, stored.log_from) == (3, 2)


@pytest.mark.parametrize(
    ("reason", "status", "why"),
    [
        (event_pb2.FINISH_REASON_STOP, stored_pb2.RESPONSE_STATUS_COMPLETED, ""),
        (
            event_pb2.FINISH_REASON_LENGTH,
            stored_pb2.RESPONSE_STATUS_INCOMPLETE,
            "max_output_tokens",
        ),
        (
            event_pb2.FINISH_REASON_CONTENT_FILTER,
            stored_pb2.RESPONSE_STATUS_INCOMPLETE,
            "content_filter",
        ),
    ],
)
def test_an_answer_that_was_cut_off_is_incomplete(
    reason: event_pb2.FinishReason.ValueType,
    status: stored_pb2.ResponseStatus.ValueType,
    why: str,
) -> None:
    answer = inference_service_pb2.Answer()
    answer.choices.add(finish_reason=reason)
    stored = record(RUNNING, 1)
    durable.complete(stored, answer, 9)
    assert (stored.status, stored.incomplete_reason, stored.completed_at) == (status, why, 9)


def test_what_is_over_cannot_be_cancelled() -> None:
    stored = record(RUNNING, 1)
    assert durable.cancel(stored, 9)
    assert not durable.cancel(stored, 10)
    assert stored.completed_at == 9


def test_a_plan_travels_in_its_job() -> None:
    targets = [
        Target("a", "main", "m", listed=True, window=8),
        Target("b", "p", "n", listed=False, spare=True),
    ]
    plan = Plan(targets, index=1, tries=2, losses=3, dead_keys=["x"], tired_keys=["y"])
    plan.left.append(InferenceError("upstream_overloaded", "busy", provider="a", model="m"))
    job = job_pb2.Job()
    durable.put_plan(job, plan)
    read = durable.plan_of(job_pb2.Job.FromString(job.SerializeToString()))
    assert (read.targets, read.index, read.tries, read.losses) == (targets, 1, 2, 3)
    assert (read.dead_keys, read.tired_keys) == (["x"], ["y"])
    assert [(e.reason, e.provider, e.message) for e in read.left] == [
        ("upstream_overloaded", "a", "busy")
    ]
    assert (job.route.provider, list(job.avoid_keys)) == ("b", ["x", "y"])


def test_a_response_enters_its_conversation_once() -> None:
    conversation = stored_pb2.StoredConversation()
    stored = stored_pb2.StoredResponse(id="resp_1")
    stored.request.generate.messages.add().parts.add().text.text = "hi"
    stored.answer.choices.add().message.parts.add().text.text = "hello"
    assert durable.converse(conversation, stored)
    assert not durable.converse(conversation, stored)
    assert [m.parts[0].text.text for m in conversation.messages] == ["hi", "hello"]
