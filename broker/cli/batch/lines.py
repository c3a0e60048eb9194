"""Makes the lines of a batch out of rows: prompts, messages, columns by a template, or lines."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from broker.cli.batch.rows import InputError, Row, encoded

CHAT = "/v1/chat/completions"
# JSON in a template is no column.
_COLUMN = re.compile(r"\{(\w[\w .-]*)\}")
# Names of a row's own name, first come.
_NAMES = ("custom_id", "id")


@dataclass(frozen=True, slots=True)
class Wish:
    """What all lines have in common."""

    endpoint: str = CHAT
    # For rows that name none.
    model: str | None = None
    system: str | None = None
    # The prompt, with columns in braces.
    template: str | None = None
    # Further fields of each body.
    params: Mapping[str, Any] = field(default_factory=dict)


def line(row: Row, wish: Wish) -> dict[str, Any]:
    """The batch line of a row. Raises `InputError`."""
    fields = row.fields
    if isinstance(fields.get("body"), dict) and wish.template is None:
        if "url" in fields:
            raise InputError(f"row {row.number} is a line of a batch, and the first row is none")
        body = {**wish.params, **fields["body"]}
    elif isinstance(fields.get("messages"), list) and wish.template is None:
        rest = {name: value for name, value in fields.items() if name not in _NAMES}
        body = {**wish.params, **rest}
    else:
        body = {**wish.params, **_asked(_prompt(row, wish), wish)}
    body.setdefault("model", wish.model)
    if not body["model"]:
        raise InputError(f"row {row.number} names no model; say which with --model")
    return {
        "custom_id": _name(row),
        "method": "POST",
        "url": wish.endpoint,
        "body": body,
    }


def endpoint_of(row: Row, wish: Wish) -> str | None:
    """The endpoint that a row is a line for, if it is a line of a batch. Raises `InputError`.

    Such rows go to the server as they are.
    """
    url = row.fields.get("url")
    body = row.fields.get("body")
    if wish.template is not None or not (isinstance(url, str) and isinstance(body, dict)):
        return None
    if wish.model or wish.system is not None or wish.params:
        raise InputError(
            f"row {row.number} is a line of a batch, which is run as it is: --model, --system and "
            "--param are for other rows"
        )
    return url


def check_columns(row: Row) -> None:
    """Raise `InputError` where a row has a field that its answer would replace."""
    for name in ("answer", "error"):
        if name in row.fields:
            raise InputError(
                f"row {row.number} has a field '{name}', as the output has for what came of it; "
                "give it another name"
            )


def _name(row: Row) -> str:
    for name in _NAMES:
        value = row.fields.get(name)
        if isinstance(value, str | int) and value != "":
            return str(value)
    return f"row-{row.number}"


def _prompt(row: Row, wish: Wish) -> str:
    if wish.template is not None:
        return fill(wish.template, row)
    for name in ("prompt", "input"):
        value = row.fields.get(name)
        if isinstance(value, str):
            return value
    names = ", ".join(map(str, row.fields)) or "none"
    raise InputError(
        f"row {row.number} has no prompt, messages or body (its fields: {names}); make one of its "
        "fields with --template 'Say something about {field}'"
    )


def fill(template: str, row: Row) -> str:
    """The template with the row's columns in place of their names. Raises `InputError`."""

    def value(found: re.Match[str]) -> str:
        name = found[1]
        if name not in row.fields:
            known = ", ".join(map(str, row.fields))
            raise InputError(f"row {row.number} has no field '{name}'; it has: {known}")
        text = row.fields[name]
        if isinstance(text, str):
            return text
        told = encoded(row, text).decode()
        # A date is told as it is, without the quotes that it would have in JSON.
        return told[1:-1] if told.startswith('"') else told

    return _COLUMN.sub(value, template)


def _asked(prompt: str, wish: Wish) -> dict[str, Any]:
    """The body that asks a prompt at the endpoint."""
    if wish.endpoint != CHAT:
        if wish.system is not None:
            raise InputError(f"--system is for {CHAT}; put it into the template")
        name = "prompt" if wish.endpoint in _PROMPTS else "input"
        return {name: prompt}
    system = [] if wish.system is None else [{"role": "system", "content": wish.system}]
    return {"messages": [*system, {"role": "user", "content": prompt}]}


# Endpoints whose text is called a prompt.
_PROMPTS = frozenset({"/v1/completions", "/v1/images/generations", "/v1/images/edits"})
