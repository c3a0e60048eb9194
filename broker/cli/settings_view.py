"""`millrace config check`: the resolved settings as YAML, secrets masked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import typer
import yaml

from broker.settings import Address, Settings

MASK = "********"


def show(settings: Settings) -> None:
    """Print the settings."""
    typer.echo(yaml.safe_dump(plain(settings), sort_keys=False, allow_unicode=True).rstrip())


def plain(value: Any) -> Any:
    """A settings value as YAML can show it; what its repr leaves out is masked."""
    if isinstance(value, Address | Path):
        return str(value)
    if is_dataclass(value):
        return {f.name: _field(getattr(value, f.name), shown=f.repr) for f in fields(value)}
    if isinstance(value, Mapping):
        return {name: plain(inner) for name, inner in value.items()}
    if isinstance(value, tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, frozenset):
        return sorted(value)
    return value


def _field(value: Any, *, shown: bool) -> Any:
    """A field's value; of a secret only that there is one, and of secrets how many."""
    if shown or value in (None, (), {}):
        return plain(value)
    if isinstance(value, Mapping):
        return dict.fromkeys(value, MASK)
    return [MASK for _ in value] if isinstance(value, tuple) else MASK
