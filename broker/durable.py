"""Background work between its attempts: who may run it, and what becomes of its record; pure.

The record of a response says how often it was claimed. A claim counts it up by compare-and-set,
so that of two workers with the same job one is turned away (R1, R19).
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum

from broker import subjects
from broker.answer import INCOMPLETE_REASONS
from broker.dispatch import LOSSES_BEFORE_ALONE, Plan
from broker.errors import InferenceError
from broker.items import name_messages, name_record
from broker.routing import Target
from broker.v1 import (
    content_pb2,
    event_pb2,
    inference_service_pb2,
    job_pb2,
    stored_pb2,
)

_Status = stored_pb2.ResponseStatus

# Nothing becomes of a response after these.
FINAL = frozenset(
    {
        stored_pb2.RESPONSE_STATUS_COMPLETED,
        stored_pb2.RESPONSE_STATUS_INCOMPLETE,
        stored_pb2.RESPONSE_STATUS_FAILED,
        stored_pb2.RESPONSE_STATUS_CANCELLED,
    }
)


class Verdict(Enum):
    """What a worker does with a job that came to it."""

    RUN = "run"
    # Nothing else may run beside it (R6).
    RUN_ALONE = "run alone"
    # Lost although nothing else ran there: it goes to the dead letters (R6).
    POISON = "poison"
    # A later job stands for the response.
    SUPERSEDED = "superseded"
    # It is over; what its last worker left undone is done.
    FINISHED = "finished"


def judge(
    record: stored_pb2.StoredResponse, job: job_pb2.Job, *, again: bool, worker: str = ""
) -> Verdict:
    """Whether `worker` may run a job.

    `again`: it was delivered before; to a worker that is lost then, unless it was this one.
    """
    if record.status in FINAL:
        return Verdict.FINISHED
    ran = record.attempt >= job.attempt
    if ran and not again:
        return Verdict.SUPERSEDED
    if _lost(record, job, worker) and record.claim.alone:
        return Verdict.POISON
    return Verdict.RUN_ALONE if losses(record, job, worker) >= LOSSES_BEFORE_ALONE else Verdict.RUN


def losses(record: stored_pb2.StoredResponse, job: job_pb2.Job, worker: str = "") -> int:
    """How many workers were lost with the response, the last one included but for `worker`."""
    return max(record.claim.losses, job.losses) + bool(_lost(record, job, worker))


def _lost(record: stored_pb2.StoredResponse, job: job_pb2.Job, worker: str) -> str:
    """The worker that claimed the job before and is not the one who asks."""
    last = record.claim.worker if record.attempt >= job.attempt else ""
    return last if last != worker else ""


def claim(record: stored_pb2.StoredResponse, job: job_pb2.Job, worker: str, *, alone: bool) -> None:
    """Make the record say that `worker` runs the job from now on."""
    claimed = stored_pb2.ResponseClaim(
        worker=worker, losses=losses(record, job, worker), alone=alone, lost=record.claim.lost
    )
    if last := _lost(record, job, worker):
        claimed.lost.append(last)
    record.attempt = max(record.attempt + 1, job.attempt)
    record.claim.CopyFrom(claimed)
    record.status = stored_pb2.RESPONSE_STATUS_IN_PROGRESS
    record.route.CopyFrom(job.route)
    if not record.watched:
        record.log_from = record.attempt


def survived(record: stored_pb2.StoredResponse, worker: str, attempt: int) -> bool:
    """`worker` gave its claim up and lives: it was not lost. False where nobody thinks so."""
    claimed = record.claim
    if claimed.worker == worker and record.attempt == attempt:
        claimed.worker, claimed.alone = "", False
        return True
    if worker in claimed.lost:
        claimed.lost.remove(worker)
        claimed.losses -= 1
        return True
    return False


def complete(
    record: stored_pb2.StoredResponse, answer: inference_service_pb2.Answer, now: int
) -> None:
    """The response is answered; `now` in Unix seconds."""
    record.answer.CopyFrom(answer)
    record.completed_at = now
    record.status = stored_pb2.RESPONSE_STATUS_COMPLETED
    record.ClearField("claim")
    name_record(record)
    for choice in record.answer.choices:
        if reason := INCOMPLETE_REASONS.get(choice.finish_reason):
            record.status = stored_pb2.RESPONSE_STATUS_INCOMPLETE
            record.incomplete_reason = reason


def fail(record: stored_pb2.StoredResponse, error: InferenceError, now: int) -> None:
    """The response failed for good."""
    record.failure.CopyFrom(error.to_failure())
    record.completed_at = now
    record.status = stored_pb2.RESPONSE_STATUS_FAILED
    record.ClearField("claim")


def cancel(record: stored_pb2.StoredResponse, now: int) -> bool:
    """Cancel the response; False when it is over already."""
    if record.status in FINAL:
        return False
    record.completed_at = now
    record.status = stored_pb2.RESPONSE_STATUS_CANCELLED
    return True


def terminal(record: stored_pb2.StoredResponse) -> event_pb2.Event:
    """The last event of the log of a response that is over."""
    if record.status == stored_pb2.RESPONSE_STATUS_FAILED:
        return event_pb2.Event(failed=record.failure)
    if record.status == stored_pb2.RESPONSE_STATUS_CANCELLED:
        return event_pb2.Event(failed=cancelled().to_failure())
    return event_pb2.Event(completed=event_pb2.Completed(usage=record.answer.usage))


def cancelled() -> InferenceError:
    """What readers of a cancelled response are told."""
    return InferenceError("client_gone", "the response was cancelled", code="cancelled")


def converse(
    conversation: stored_pb2.StoredConversation, record: stored_pb2.StoredResponse
) -> bool:
    """Add a response's input and output to its conversation, once; False when they are there."""
    if record.id in conversation.responses:
        return False
    conversation.responses.append(record.id)
    add_messages(conversation, [*record.request.generate.messages, *said(record)], record.id)
    return True


def add_messages(
    conversation: stored_pb2.StoredConversation,
    messages: Iterable[content_pb2.Message],
    salt: str,
) -> list[content_pb2.Message]:
    """Add messages whose items have ids of their own from now on; the same `salt`, the same ids.

    Returns them as they were added.
    """
    added = []
    for message in messages:
        new = content_pb2.Message()
        new.CopyFrom(message)
        added.append(new)
    name_messages(added, conversation.id, salt)
    conversation.messages.extend(added)
    return added


def said(record: stored_pb2.StoredResponse) -> list[content_pb2.Message]:
    """What the response answered, as messages of the next turn."""
    return [choice.message for choice in record.answer.choices]


def plan_of(job: job_pb2.Job) -> Plan:
    """The plan that a job carries."""
    plan = job.plan
    return Plan(
        [
            Target(c.route.provider, c.route.pool, c.route.model, c.listed, c.window, spare=c.spare)
            for c in plan.candidates
        ],
        index=plan.index,
        tries=plan.tries,
        resumes=plan.resumes,
        losses=job.losses,
        dead_keys=list(plan.dead_keys),
        tired_keys=list(plan.tired_keys),
        limited=plan.limited,
        left=[InferenceError.from_failure(failure) for failure in plan.left],
    )


def put_plan(job: job_pb2.Job, plan: Plan) -> None:
    """Make the job the next attempt of `plan`."""
    target = plan.target
    job.losses = plan.losses
    job.route.CopyFrom(
        job_pb2.Route(provider=target.provider, pool=target.pool, model=target.model)
    )
    del job.avoid_keys[:]
    job.avoid_keys.extend((*plan.dead_keys, *plan.tired_keys))
    job.plan.CopyFrom(
        job_pb2.Plan(
            candidates=[
                job_pb2.Candidate(
                    route=_route(target),
                    listed=target.listed,
                    window=target.window,
                    spare=target.spare,
                )
                for target in plan.targets
            ],
            index=plan.index,
            tries=plan.tries,
            resumes=plan.resumes,
            dead_keys=plan.dead_keys,
            tired_keys=plan.tired_keys,
            limited=plan.limited,
            left=[error.to_failure() for error in plan.left],
        )
    )


def model_token(target: Target) -> str:
    """The model's token in the subjects of this target's jobs."""
    return target.model if target.listed else subjects.UNLISTED


def _route(target: Target) -> job_pb2.Route:
    return job_pb2.Route(provider=target.provider, pool=target.pool, model=target.model)
