"""Applies a table's rows to what a request asks for: everything that needs no code of a dialect."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from broker.errors import InferenceError
from broker.v1 import generation_pb2
from workers.parameters.asked import base_name
from workers.parameters.table import Action, At, Row

# Values that ask for what happens anyway: leaving them out is no loss.
_ANYWAY: Mapping[str, Callable[[Any], bool]] = {
    "temperature": lambda v: v == 1,
    "top_p": lambda v: v == 1,
    "presence_penalty": lambda v: v == 0,
    "frequency_penalty": lambda v: v == 0,
    "logprobs": lambda v: v is False,
    "top_logprobs": lambda v: v == 0,
    "n": lambda v: v == 1,
    "store": lambda v: v is False,
    "stream": lambda v: v is False,
    # Not about the model: what the caller's own stream looks like is the edge's to arrange.
    "stream_options": lambda _: True,
    "parallel_tool_calls": lambda v: v is True,
    "tool_choice=auto": lambda _: True,
    "service_tier": lambda v: v in ("auto", "default"),
    "verbosity": lambda v: v == "medium",
    "modalities": lambda v: v == ["text"],
    "truncation": lambda v: v == "disabled",
}
_UNKNOWN = Row("", Action.DROP)
# Parameters that no table needs a row for, other than those that are left out.
_NOWHERE = {
    "prompt": Row(
        "prompt", Action.REJECT, note="the template that it names is kept by another provider"
    )
}


@dataclass(slots=True)
class Losses:
    """What was left out because the provider cannot take it, by OpenAI's names, in order."""

    _names: dict[str, None] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._names)

    def drop(self, parameter: str) -> None:
        """Notes that a parameter is left out."""
        self._names[base_name(parameter)] = None

    def refuse(self, platform: generation_pb2.Platform, model: str) -> None:
        """Raises `InferenceError` if anything was left out and the caller forbids that."""
        if not self._names or not platform.HasField("drop_params") or platform.drop_params:
            return
        names = ", ".join(self._names)
        raise InferenceError(
            "unsupported_parameter",
            f"{model} does not take {names}: leave it out, or set drop_params to true",
            param=next(iter(self._names)),
        )


def settle(
    rows: Mapping[str, Row], wanted: Mapping[str, Any], body: dict[str, Any], losses: Losses
) -> dict[str, Any]:
    """Writes `wanted` into the body as the rows say; returns what the dialect's code has to do.

    What the body has at a path stays there. Raises `InferenceError` for a row that rejects.
    """
    rest: dict[str, Any] = {}
    for name, value in wanted.items():
        row = rows.get(name) or rows.get(base_name(name)) or _NOWHERE.get(name, _UNKNOWN)
        action = row.unless or row.action
        if action is Action.KEEP or action is Action.RENAME:
            if row.unless_moot and is_moot(name, value):
                continue
            put(body, row.path, value)
        elif action is Action.CLAMP:
            put(body, row.path, _within(row, value, losses))
        elif action is Action.DROP:
            if not is_moot(name, value):
                losses.drop(name)
        elif action is Action.REJECT:
            if not is_moot(name, value):
                raise _rejected(row, name)
        elif row.words is not None:
            _write_word(row, row.words, value, body, losses)
        else:
            rest[name] = value
    return rest


def left_to_worker(rows: Mapping[str, Row], wanted: Mapping[str, Any]) -> tuple[str, ...]:
    """The wanted parameters that the worker around the dialect has to emulate."""
    return tuple(
        name
        for name, value in wanted.items()
        if (row := rows.get(name)) and row.unless is not None and not is_moot(name, value)
    )


def is_moot(parameter: str, value: Any) -> bool:
    """Whether the value asks for what happens anyway."""
    test = _ANYWAY.get(parameter)
    return test is not None and test(value)


def put(body: dict[str, Any], path: str, value: Any) -> None:
    """Writes a value at a dotted path, unless something is there."""
    *owners, name = path.split(".")
    for owner in owners:
        body = body.setdefault(owner, {})
    body.setdefault(name, value)


def _within(row: Row, value: Any, losses: Losses) -> Any:
    if isinstance(value, list):
        most = len(value) if row.high is None else int(row.high)
        if len(value) > most:
            losses.drop(row.parameter)
        return value[:most]
    if row.low is not None and value < row.low:
        return type(value)(row.low)
    if row.high is not None and value > row.high:
        return type(value)(row.high)
    return value


def _write_word(
    row: Row, words: Mapping[Any, Any], value: Any, body: dict[str, Any], losses: Losses
) -> None:
    if value not in words:
        if not is_moot(row.parameter, value):
            losses.drop(row.parameter)
        return
    word = words[value]
    if isinstance(word, At):
        put(body, word.path, word.value)
    elif word is not None:
        put(body, row.path, word)


def _rejected(row: Row, name: str) -> InferenceError:
    param = base_name(name)
    why = f": {row.note}" if row.note else ""
    return InferenceError("unsupported_parameter", f"{param} is not supported{why}", param=param)
