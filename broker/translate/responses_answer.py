"""Renders a whole answer as the body of a response that was not streamed."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from broker.answer import Fold
from broker.translate.form import JSON
from broker.translate.responses_object import finished, render
from broker.v1 import event_pb2, generation_pb2, stored_pb2

_json = msgspec.json.Encoder().encode


class ResponsesAnswer:
    """Takes the events of one answer in and renders the `response` object."""

    content_type = JSON

    def __init__(self, answer_id: str, created: int, request: generation_pb2.Request) -> None:
        self.fold = Fold()
        self._id = answer_id
        self._created = created
        self._request = request
        self._kept: stored_pb2.StoredResponse | None = None

    def feed(self, events: Sequence[event_pb2.Event]) -> None:
        """Take more events in.

        Raises:
            InferenceError: the answer failed.
        """
        self.fold.feed(events)

    def stored(self, *, completed_at: int = 0) -> stored_pb2.StoredResponse:
        """The response as it is to be kept, before `render`; `completed_at` in Unix seconds."""
        answer = self.fold.answer(self._id, self._created)
        kept = self._kept = finished(self._request, answer)
        kept.completed_at = completed_at
        return kept

    def render(self) -> bytes:
        """The body, once the answer is complete."""
        return render(self._kept or self.stored())
