"""Moderations in OpenAI's format: the body of a request, and the whole answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Raw, Struct

from broker.answer import Fold
from broker.translate import wire
from broker.translate.body import read_body, refuse_known, shaped, write_rest
from broker.translate.form import JSON
from broker.translate.refusals import invalid, missing
from broker.v1 import event_pb2, generation_pb2, operations_pb2

# As at OpenAI, where the model need not be named.
_MODEL = "omni-moderation-latest"
_json = msgspec.json.Encoder().encode


class ModerationsRequest(wire.Platform):
    """A moderation request."""

    input: Annotated[
        str | list[Any],
        Meta(description="A string, an array of strings, or an array of text and image parts."),
    ]
    model: wire.Model | None = None


class _Texts(Struct):
    input: Annotated[list[str], Meta(min_length=1)]


class _Part(Struct):
    type: str
    text: str | None = None
    image_url: wire.ImageUrl | None = None


class _Parts(Struct):
    input: list[_Part]


def parse_moderations(body: bytes) -> generation_pb2.Request:
    """The hub request for a body.

    Raises:
        InferenceError: invalid_request, with `param` as a dotted path into the body.
    """
    source = read_body(body)
    asked = shaped(source, ModerationsRequest)
    request = generation_pb2.Request()
    moderate = request.moderate
    moderate.model = asked.model or _MODEL
    if isinstance(asked.input, str):
        moderate.inputs.add().text = asked.input
    elif asked.input and isinstance(asked.input[0], dict):
        moderate.together = True
        for index, part in enumerate(shaped({"input": asked.input}, _Parts).input):
            _write_part(moderate.inputs.add(), part, f"input[{index}]")
    else:
        for text in shaped({"input": asked.input}, _Texts).input:
            moderate.inputs.add().text = text
    write_rest(request, moderate, source, {}, _DONE)
    return request


_DONE = frozenset({"model", "input"})


def _write_part(given: operations_pb2.ModerationInput, part: _Part, where: str) -> None:
    if part.type == "text":
        if part.text is None:
            raise missing(f"{where}.text")
        given.text = part.text
    elif part.type == "image_url":
        if part.image_url is None:
            raise missing(f"{where}.image_url")
        given.image_url = part.image_url.url
    else:
        message = f"Invalid value: {part.type!r:.60}. Supported values are: 'text', 'image_url'."
        raise invalid(f"{where}.type", message)


def check_moderate(request: generation_pb2.Request, body: dict[str, Any]) -> None:
    """The same checks for typed messages; `body` has what is not the operation's own."""
    moderate = request.moderate
    if not moderate.model:
        moderate.model = _MODEL
    shaped(body | {"model": moderate.model, "input": ""}, ModerationsRequest)
    if not moderate.inputs:
        raise missing("input")
    for index, given in enumerate(moderate.inputs):
        if not (given.HasField("text") or given.HasField("image_url")):
            raise missing(f"input[{index}]")
        if given.HasField("image_url") and not moderate.together:
            if len(moderate.inputs) > 1:
                message = "Pictures are judged with 'together', all inputs as one thing."
                raise invalid(f"input[{index}].image_url", message)
            moderate.together = True
    refuse_known(moderate.extra, ModerationsRequest)


class ModerationsAnswer:
    """Takes the events of one answer in and renders its judgements."""

    content_type = JSON

    def __init__(self, answer_id: str, created: int, request: generation_pb2.Request) -> None:
        self._fold = Fold()
        self._id = answer_id

    def feed(self, events: Sequence[event_pb2.Event]) -> None:
        """Take more events in. Raises `InferenceError` when the answer failed."""
        self._fold.feed(events)

    def render(self) -> bytes:
        """The body, once the answer is complete."""
        judged = sorted(self._fold.moderations, key=lambda judged: judged.index)
        body = {
            "id": self._id,
            "model": self._fold.started.model,
            "results": [_result(one) for one in judged],
        }
        return _json(body)


def _result(judged: operations_pb2.Moderation) -> dict[str, Any]:
    result: dict[str, Any] = {
        "flagged": judged.flagged,
        "categories": dict(sorted(judged.categories.items())),
        "category_scores": dict(sorted(judged.scores.items())),
    }
    if judged.applied:
        applied = sorted(judged.applied.items())
        result["category_applied_input_types"] = {name: list(one.types) for name, one in applied}
    return result | {name: Raw(data) for name, data in sorted(judged.extra.items())}
