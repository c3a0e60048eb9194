"""Holds a model to the JSON that was asked for, where its provider does not.

Patterns are not checked: Python's regular expressions can take for ever, and one caller's schema
must not stop the answers of the others. References are followed within the schema alone.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jsonschema
import orjson
import referencing
import referencing.exceptions

from broker.errors import InferenceError
from broker.v1 import event_pb2, generation_pb2
from workers.fences import FenceStripper

Event = event_pb2.Event

_Format = generation_pb2.ResponseFormat
_PARAM = "response_format.json_schema.schema"
_MAX_DETAIL = 200


def _unchecked(*_: Any) -> Iterator[jsonschema.ValidationError]:
    return iter(())


def _additional(
    validator: Any, allowed: Any, value: Any, schema: Mapping[str, Any]
) -> Iterable[jsonschema.ValidationError]:
    if "patternProperties" in schema:
        return ()
    checked: Iterable[jsonschema.ValidationError] = jsonschema.Draft202012Validator.VALIDATORS[
        "additionalProperties"
    ](validator, allowed, value, schema)
    return checked or ()


_CHANGES = {
    "additionalProperties": _additional,
    "pattern": _unchecked,
    "patternProperties": _unchecked,
    "unevaluatedItems": _unchecked,
    "unevaluatedProperties": _unchecked,
}


@functools.lru_cache(maxsize=256)
def _validator(schema: bytes) -> Any:
    """Raises `InferenceError` for what is no JSON Schema."""
    try:
        read = orjson.loads(schema)
        draft = jsonschema.validators.validator_for(read, jsonschema.Draft202012Validator)
        draft.check_schema(read)
    except (orjson.JSONDecodeError, jsonschema.SchemaError, RecursionError) as exc:
        said = exc.message if isinstance(exc, jsonschema.SchemaError) else str(exc)
        raise InferenceError(
            "invalid_request", f"not a JSON Schema: {said[:_MAX_DETAIL]}", param=_PARAM
        ) from exc
    lenient: Any = jsonschema.validators.extend(draft, _CHANGES)  # type: ignore[no-untyped-call]
    return lenient(read, registry=referencing.Registry())


class _Choice:
    __slots__ = ("fence", "item", "reason", "spoke_otherwise", "texts")

    def __init__(self) -> None:
        self.fence = FenceStripper()
        self.texts: list[str] = []
        self.item = 0
        self.reason = event_pb2.FINISH_REASON_UNSPECIFIED
        # By a tool call or a refusal, which are no JSON answers and need not be.
        self.spoke_otherwise = False


class JsonAnswer:
    """A step that takes code fences off an answer and fails it if it is not the JSON asked for.

    A whole answer is held back until it is known to be right; of a stream only the end is.
    """

    def __init__(self, form: _Format, *, streamed: bool) -> None:
        """Raises `InferenceError` for a schema that is none."""
        checked = form.schema and not (form.HasField("strict") and not form.strict)
        self._validator = _validator(form.schema) if checked else None
        self._streamed = streamed
        self._held: list[Event] = []
        self._choices: dict[int, _Choice] = {}

    def over(self, events: Iterable[Event]) -> Iterator[Event]:
        """The events, without fences; raises invalid_answer for a wrong answer."""
        for event in events:
            kind = event.WhichOneof("kind")
            if kind == "completed":
                for choice in self._choices.values():
                    if why := self._fault(choice):
                        raise self._wrong(why)
            if self._streamed:
                yield from self._of(kind or "", event)
                continue
            self._held += self._of(kind or "", event)
            if kind == "completed":
                yield from self._held

    def _of(self, kind: str, event: Event) -> Iterator[Event]:
        if kind not in ("text", "choice_finished", "tool_call", "refusal"):
            yield event
            return
        number = getattr(event, kind).choice
        choice = self._choices.setdefault(number, _Choice())
        if kind == "text":
            choice.item = event.text.item
            shown = choice.fence.feed(event.text.text)
            choice.texts.append(shown)
            if not shown and not event.text.logprobs:
                return
            event.text.text = shown
        elif kind == "choice_finished":
            choice.reason = event.choice_finished.reason
            if rest := choice.fence.close():
                choice.texts.append(rest)
                delta = event_pb2.TextDelta(choice=number, item=choice.item, text=rest)
                yield Event(text=delta)
        else:
            choice.spoke_otherwise = True
        yield event

    def _fault(self, choice: _Choice) -> str:
        """What is wrong with a choice; empty for a right one."""
        # What was cut off by a limit or a filter says so by its finish reason.
        if choice.spoke_otherwise or choice.reason != event_pb2.FINISH_REASON_STOP:
            return ""
        try:
            answer = orjson.loads("".join(choice.texts))
        except orjson.JSONDecodeError as exc:
            return f"it is not JSON: {exc}"
        if self._validator is None:
            return "" if isinstance(answer, dict) else "it is not a JSON object"
        try:
            found = next(self._validator.iter_errors(answer), None)
        except (referencing.exceptions.Unresolvable, RecursionError) as exc:
            raise InferenceError(
                "invalid_request",
                "the schema cannot be followed: references have to lead to a place within it",
                param=_PARAM,
            ) from exc
        return f"at {found.json_path}: {found.message[:_MAX_DETAIL]}" if found else ""

    def _wrong(self, why: str) -> InferenceError:
        return InferenceError(
            "invalid_answer",
            f"the model's answer is not the JSON that was asked for; {why}. Ask again, with a "
            "simpler schema, or a model that has structured outputs",
            phase="content" if self._streamed else "before_content",
        )
