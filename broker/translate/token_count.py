"""Renders how many tokens a request has, in each format that asks for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import msgspec

from broker.answer import Fold
from broker.translate.form import JSON
from broker.v1 import event_pb2, generation_pb2

_json = msgspec.json.Encoder().encode


class CountAnswer:
    """As Messages has it; `estimated` is there, and true, where the provider does not count."""

    content_type = JSON
    # What stands before the count.
    head: ClassVar[dict[str, Any]] = {}

    def __init__(self, answer_id: str, created: int, request: generation_pb2.Request) -> None:
        self._fold = Fold()

    def feed(self, events: Sequence[event_pb2.Event]) -> None:
        """Take more events in. Raises `InferenceError` when the answer failed."""
        self._fold.feed(events)

    def render(self) -> bytes:
        """The body."""
        count = self._fold.token_count or event_pb2.TokenCount()
        shown = self.head | {"input_tokens": count.input_tokens}
        if count.estimated:
            shown["estimated"] = True
        return _json(shown)


class InputTokensAnswer(CountAnswer):
    """As Responses has it."""

    head: ClassVar[dict[str, Any]] = {"object": "response.input_tokens"}
