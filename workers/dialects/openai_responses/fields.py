"""Reads fields of a response's JSON, whatever a server put there."""

from __future__ import annotations

from typing import Any

import orjson

from workers.counts import count

# Of items, and of parts of one.
_MOST = 100_000


def text_at(said: dict[str, Any], name: str) -> str:
    """The text of a field; empty where there is none."""
    value = said.get(name)
    return value if isinstance(value, str) else ""


def tier_at(response: dict[str, Any]) -> str:
    """The tier that a response was given at; `auto` is what was asked for."""
    tier = text_at(response, "service_tier")
    return "" if tier == "auto" else tier


def index_at(said: dict[str, Any], name: str) -> int | None:
    """The place that a field names."""
    number = count(said.get(name))
    return number if number is not None and number < _MOST else None


def number_at(said: dict[str, Any], name: str) -> int:
    """The place that a field names, the first one where it names none."""
    return index_at(said, name) or 0


def objects_at(said: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """The objects of a list."""
    value = said.get(name)
    return [part for part in value if isinstance(part, dict)] if isinstance(value, list) else []


def arguments_text(value: Any) -> str:
    """JSON text by the format; an object is written as one."""
    if isinstance(value, str):
        return value
    return "" if value is None else orjson.dumps(value).decode()


def nested(note: Any) -> Any:
    """A citation of an address in the form that the hub's annotations have, which is chat's."""
    if not isinstance(note, dict) or note.get("type") != "url_citation":
        return note
    inner = {name: value for name, value in note.items() if name != "type"}
    return {"type": "url_citation", "url_citation": inner}
