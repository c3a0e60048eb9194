"""Shows responses and conversations as typed messages of the public gRPC API."""

from __future__ import annotations

from broker.errors import InferenceError
from broker.translate.rpc_errors import error_details
from broker.v1 import event_pb2, stored_pb2
from broker.v1 import responses_service_pb2 as pb


def response(record: stored_pb2.StoredResponse) -> pb.Response:
    """A response as its caller may see it."""
    shown = pb.Response(
        id=record.id,
        created_at=record.created_at,
        completed_at=record.completed_at,
        status=record.status,
        request=record.request,
        incomplete_reason=record.incomplete_reason,
    )
    if record.HasField("answer"):
        shown.answer.CopyFrom(record.answer)
    if record.status == stored_pb2.RESPONSE_STATUS_FAILED:
        shown.error.CopyFrom(error_details(InferenceError.from_failure(record.failure)))
    return shown


def conversation(record: stored_pb2.StoredConversation) -> pb.Conversation:
    """A conversation without its items."""
    return pb.Conversation(id=record.id, created_at=record.created_at, metadata=record.metadata)


class Steps:
    """Numbers the steps of a stream; those up to `starting_after` are counted alone."""

    def __init__(self, starting_after: int = 0) -> None:
        self._after = starting_after
        self._count = 0

    def response(self, record: stored_pb2.StoredResponse) -> list[pb.ResponseStep]:
        """The step that a response is, unless the caller has it."""
        return self._new(pb.ResponseStep(response=response(record)))

    def event(self, event: event_pb2.Event) -> list[pb.ResponseStep]:
        """The step that an event is, unless the caller has it."""
        return self._new(pb.ResponseStep(event=event))

    def _new(self, step: pb.ResponseStep) -> list[pb.ResponseStep]:
        self._count += 1
        step.sequence = self._count
        return [step] if self._count > self._after else []
