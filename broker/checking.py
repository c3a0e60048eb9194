"""Turns what files and variables say into typed values, or says which field is wrong; pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec

_T = TypeVar("_T")


class ConfigError(Exception):
    """A setting is wrong. `path` says which: `limits.queue_size`, `MILLRACE_HTTP` or `--http`."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(f"{path}: {message}")
        self.path = path
        self.message = message


def convert(value: object, kind: Any, path: str, *, strict: bool) -> Any:
    """`value` as `kind`, or `ConfigError` with the path of the field at fault below `path`."""
    try:
        return msgspec.convert(value, kind, strict=strict)
    except msgspec.ValidationError as exc:
        message, _, inner = str(exc).partition(" - at ")
        # A key that is no text is reported as: `key` in `$.path`.
        below = inner.rpartition(" in ")[2].strip("`").removeprefix("$").replace(".[", "[")
        if unknown := re.fullmatch(r"Object contains unknown field `(.*)`", message):
            below, message = f"{below}.{unknown[1]}", "unknown field"
        where = (path + below).removeprefix(".") or "the file"
        text = _choices(kind, message) or message.replace("`", "")
        text = text.replace("object", "mapping").replace("array", "list")
        raise ConfigError(where, text[:1].lower() + text[1:]) from exc


def _choices(kind: Any, message: str) -> str:
    """What a wrong word could have been; empty when that is not the matter."""
    if get_origin(kind) is not Literal or not message.startswith("Invalid enum value"):
        return ""
    return f"expected one of {', '.join(get_args(kind))}"


def section(
    cls: type[_T], given: Mapping[str, Any], env: Mapping[str, str], path: str, prefix: str
) -> _T:
    """A dataclass of settings from its part of the file and from variables named after fields."""
    hints = get_type_hints(cls, include_extras=True)
    values: dict[str, Any] = {}
    for name, value in given.items():
        if name not in hints:
            raise ConfigError(f"{path}.{name}", "unknown field")
        values[name] = convert(value, hints[name], f"{path}.{name}", strict=True)
    for name, hint in hints.items():
        if text := env.get(prefix + name.upper()):
            values[name] = convert(text, hint, prefix + name.upper(), strict=False)
    return cls(**values)


def words(value: str | list[str] | tuple[str, ...] | None) -> tuple[str, ...]:
    """The parts of a comma-separated text, or of a list."""
    parts = value.split(",") if isinstance(value, str) else value or ()
    return tuple(word for part in parts if (word := part.strip()))
