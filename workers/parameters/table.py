"""The rows of a parameter table, the families of models they hold for, and how a row is found."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple

# Model names come from callers: rows are kept for this many.
_REMEMBERED = 256


class Action(Enum):
    """What becomes of a parameter."""

    KEEP = "pass"
    RENAME = "rename"
    CLAMP = "clamp"
    MAP = "map"
    EMULATE = "emulate"
    DROP = "drop"
    REJECT = "reject"


class Reasoning(Enum):
    """Whether a model thinks before it answers, and whether the caller can change that."""

    NEVER = "never"
    ALWAYS = "always"
    BY_DEFAULT = "by default"  # reasoning_effort "none" turns it off
    ON_REQUEST = "on request"  # only with a reasoning_effort other than "none"

    def happens(self, effort: str | None) -> bool:
        """Whether the model reasons when asked for this effort; None = nothing was asked."""
        if self is Reasoning.BY_DEFAULT:
            return effort != "none"
        if self is Reasoning.ON_REQUEST:
            return effort not in (None, "none")
        return self is Reasoning.ALWAYS


class At(NamedTuple):
    """A word of `words` that goes to a path of its own."""

    path: str
    value: Any


@dataclass(frozen=True, slots=True)
class Row:
    """One parameter. `path` is empty where nothing is sent; bounds count the items of a list."""

    parameter: str
    action: Action
    path: str = ""
    low: float | None = None
    high: float | None = None
    # MAP value for value, without code of the dialect; None as the target means: not sent.
    words: Mapping[Any, Any] | None = None
    # Not sent where the value asks for what happens anyway.
    unless_moot: bool = False
    # MAP that is an emulation in some requests: answers are checked as where it always is one.
    checked: bool = False
    # EMULATE by the worker: DROP or REJECT where nobody emulates.
    unless: Action | None = None
    note: str = ""
    source: str = ""


Rows = tuple[Row, ...]


def keep(*parameters: str, unless_moot: bool = False, note: str = "", source: str = "") -> Rows:
    """Goes out under its own name; `unless_moot`, not where it asks for what happens anyway."""
    return tuple(
        Row(name, Action.KEEP, _base(name), unless_moot=unless_moot, note=note, source=source)
        for name in parameters
    )


def rename(parameter: str, path: str, *, note: str = "", source: str = "") -> Rows:
    """Goes out at another path, unchanged."""
    return (Row(parameter, Action.RENAME, path, note=note, source=source),)


def clamp(
    parameter: str,
    low: float | None,
    high: float | None,
    path: str = "",
    *,
    note: str = "",
    source: str = "",
) -> Rows:
    """Goes out within bounds; of a list that is too long the first items, and that is reported."""
    path = path or _base(parameter)
    return (Row(parameter, Action.CLAMP, path, low, high, note=note, source=source),)


def words(
    parameter: str, table: Mapping[Any, Any], path: str = "", *, note: str = "", source: str = ""
) -> Rows:
    """Goes out as the word that stands for its value; a value without one is dropped."""
    path = path or _base(parameter)
    return (Row(parameter, Action.MAP, path, words=table, note=note, source=source),)


def mapped(
    parameter: str, path: str, *, checked: bool = False, note: str = "", source: str = ""
) -> Rows:
    """Goes out in another form, written by the dialect's own code."""
    return (Row(parameter, Action.MAP, path, checked=checked, note=note, source=source),)


def emulate(
    *parameters: str,
    path: str = "",
    unless: Action | None = None,
    note: str = "",
    source: str = "",
) -> Rows:
    """The provider has no such thing: done by the dialect, or with `unless` by the worker."""
    return tuple(
        Row(name, Action.EMULATE, path, unless=unless, note=note, source=source)
        for name in parameters
    )


def drop(*parameters: str, note: str = "", source: str = "") -> Rows:
    """Left out, and reported unless the value asks for what happens anyway."""
    return tuple(Row(name, Action.DROP, note=note, source=source) for name in parameters)


def reject(*parameters: str, note: str = "", source: str = "") -> Rows:
    """Refused with 400: without it the answer would be another one than asked for."""
    return tuple(Row(name, Action.REJECT, note=note, source=source) for name in parameters)


def _base(parameter: str) -> str:
    return parameter.partition("=")[0]


@dataclass(frozen=True, slots=True)
class Family:
    """What differs for the models whose lower-case names the expression `models` is found in."""

    name: str
    models: str
    differs: Rows
    reasoning: Reasoning = Reasoning.NEVER
    while_reasoning: Rows = ()
    defaults: Mapping[str, Any] | None = None


def family(
    name: str,
    models: str,
    *differs: Iterable[Row],
    reasoning: Reasoning = Reasoning.NEVER,
    while_reasoning: Iterable[Row] = (),
    defaults: Mapping[str, Any] | None = None,
) -> Family:
    """A family from groups of rows; `while_reasoning` holds on top of these.

    `defaults` are fields of the upstream body that are sent unless something else is there.
    """
    return Family(name, models, _flat(differs), reasoning, tuple(while_reasoning), defaults)


@dataclass(frozen=True, slots=True)
class Sheet:
    """A family with all its rows. `name` is empty for the models that no family matches."""

    name: str
    models: str
    reasoning: Reasoning
    rows: Mapping[str, Row]
    rows_while_reasoning: Mapping[str, Row]
    defaults: Mapping[str, Any]

    def rows_for(self, effort: str | None) -> Mapping[str, Row]:
        """The rows for a request with this reasoning_effort."""
        return self.rows_while_reasoning if self.reasoning.happens(effort) else self.rows


def _flat(groups: Iterable[Iterable[Row]]) -> Rows:
    return tuple(row for group in groups for row in group)


class Table:
    """The rows of a provider; see the package's docstring for how to write one."""

    def __init__(
        self,
        *rows: Iterable[Row],
        families: Iterable[Family] = (),
        reasoning: Reasoning = Reasoning.NEVER,
        while_reasoning: Iterable[Row] = (),
        defaults: Mapping[str, Any] | None = None,
    ) -> None:
        self._own = Family("", "", _flat(rows), reasoning, tuple(while_reasoning), defaults)
        self._families = tuple(families)
        # The nameless one is last: it matches every model.
        families = (*self._families, self._own)
        self.sheets = tuple(_sheet(self._own, family) for family in families)
        self._patterns = [(re.compile(sheet.models), sheet) for sheet in self.sheets]
        self._found: dict[str, Sheet] = {}

    def but(
        self,
        *rows: Iterable[Row],
        families: Iterable[Family] | None = None,
        reasoning: Reasoning | None = None,
        while_reasoning: Iterable[Row] | None = None,
        defaults: Mapping[str, Any] | None = None,
    ) -> Table:
        """The same table with other rows in place of its own; families are kept unless given."""
        own = self._own
        return Table(
            own.differs,
            *rows,
            families=self._families if families is None else families,
            reasoning=own.reasoning if reasoning is None else reasoning,
            while_reasoning=own.while_reasoning if while_reasoning is None else while_reasoning,
            defaults=own.defaults if defaults is None else defaults,
        )

    def sheet(self, model: str) -> Sheet:
        """The rows of a model's family; a fine-tuned model (`ft:`) counts as what it was."""
        found = self._found.get(model)
        if found is None:
            name = model.lower().removeprefix("ft:")
            found = next(sheet for pattern, sheet in self._patterns if pattern.search(name))
            if len(self._found) >= _REMEMBERED:
                self._found.clear()
            self._found[model] = found
        return found

    def rows(self, model: str, effort: str | None = None) -> Mapping[str, Row]:
        """The rows for a model and a reasoning_effort, by parameter."""
        return self.sheet(model).rows_for(effort)


def _sheet(own: Family, family: Family) -> Sheet:
    rows = {row.parameter: row for row in (*own.differs, *family.differs)}
    reasoning = {**rows, **{row.parameter: row for row in family.while_reasoning}}
    defaults = family.defaults if family.defaults is not None else own.defaults or {}
    return Sheet(family.name, family.models, family.reasoning, rows, reasoning, defaults)
