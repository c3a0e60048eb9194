"""The cells of every provider's table, and what a call holds at a path."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from broker.providers import REGISTRY
from broker.v1 import generation_pb2
from tests.workers.parameters.models import MODELS
from workers import registry
from workers.parameters import COLUMNS, Reasoning, Row
from workers.parameters.table import Sheet
from workers.provider import Call, Provider

ON_REQUEST, BY_DEFAULT = Reasoning.ON_REQUEST, Reasoning.BY_DEFAULT


@dataclass(frozen=True)
class Settings:
    """Enough to load any provider."""

    kind: str
    base_url: str = "http://127.0.0.1:1/v1"

    @property
    def name(self) -> str:
        return self.kind

    models: tuple[str, ...] = ()

    @property
    def headers(self) -> dict[str, str]:
        return {}

    @property
    def options(self) -> dict[str, str]:
        return {}


PROVIDERS: dict[str, Provider] = {name: registry.load(Settings(name)) for name in REGISTRY}
# Every table there is: of a second format, under the provider's name and the format's.
TABLES: dict[str, Provider] = {
    name if form is provider else f"{name}-{provider.second_api}": form
    for name, provider in PROVIDERS.items()
    for form in provider.formats
}


@dataclass(frozen=True)
class Cell:
    """One parameter in one table for one family of models, while it reasons or not."""

    table: str
    sheet: Sheet
    column: str
    reasons: bool

    @property
    def id(self) -> str:
        family = self.sheet.name or "others"
        return f"{self.table}-{family}-{self.column}" + "-reasoning" * self.reasons

    @property
    def provider(self) -> Provider:
        return TABLES[self.table]

    @property
    def row(self) -> Row:
        rows = self.sheet.rows_while_reasoning if self.reasons else self.sheet.rows
        return rows[self.column]

    @property
    def model(self) -> str:
        return MODELS[self.table][self.sheet.name]

    @property
    def effort(self) -> str | None:
        """What to ask for, so that the model reasons as this cell wants it."""
        if self.sheet.reasoning is ON_REQUEST and self.reasons:
            return "low"
        if self.sheet.reasoning is BY_DEFAULT and not self.reasons:
            return "none"
        return None

    def call(self, request: generation_pb2.Request) -> Call:
        provider = self.provider
        return provider.dialect_for(self.model).call(request, self.model, provider)


def cells() -> list[Cell]:
    """All of them; while the model reasons, only those that are different then."""
    return [
        Cell(name, sheet, column, reasons)
        for name, provider in TABLES.items()
        for sheet in provider.parameters.sheets
        for column in COLUMNS
        for reasons in _states(sheet, column)
    ]


def _states(sheet: Sheet, column: str) -> Iterator[bool]:
    if sheet.reasoning is Reasoning.ALWAYS:
        yield True
        return
    yield False
    if sheet.rows_while_reasoning.get(column) != sheet.rows.get(column):
        yield True


def body(call: Call) -> Any:
    return json.loads(call.body)


def at(value: Any, path: str) -> list[Any]:
    """The values at a dotted path; `[]` means every item of a list."""
    found = [value]
    for step in path.split("."):
        name = step.removesuffix("[]")
        found = [one[name] for one in found if isinstance(one, dict) and name in one]
        if step.endswith("[]"):
            found = [item for one in found if isinstance(one, list) for item in one]
    return found
