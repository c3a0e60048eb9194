"""Words for the mistakes of a batch: by the rows of its file, where that is at hand."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from broker.batch.states import MORE_ERRORS
from broker.cli.batch import rows
from broker.cli.batch.rows import InputError

# Those that are told, of however many there are.
SHOWN = 10


def of(told: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The mistakes in an object of a batch, or of an estimate."""
    return (told.get("errors") or {}).get("data") or []


def count(errors: Sequence[Mapping[str, Any]]) -> str:
    """How many there are."""
    # The last one says that there are more than are listed.
    more = bool(errors) and errors[-1]["code"] == MORE_ERRORS.code
    return f"more than {len(errors) - 1:,}" if more else f"{len(errors):,}"


def words(errors: Sequence[Mapping[str, Any]], source: Path | None = None) -> list[str]:
    """A line for each of the first ones, and one for the rest.

    The lines of a batch that was made of a file are numbered without gaps; its rows are not.
    """
    first = errors[:SHOWN]
    numbers, word = {}, "line"
    if source is not None:
        numbers, word = _numbers(source, {error.get("line") for error in first}), "row"
    told = []
    for error in first:
        line = error.get("line")
        where = f"{word} {numbers.get(line, line)}: " if line else ""
        told.append(f"{where}{error['message']} ({error['code']})")
    if left := errors[SHOWN:]:
        told.append(f"and {count(left)} more")
    return told


def _numbers(source: Path, wanted: set[int | None]) -> dict[int | None, int]:
    """Where these lines of a batch stand in the file."""
    with contextlib.suppress(InputError):
        return {at: row.number for at, row in enumerate(rows.read(source), 1) if at in wanted}
    return {}
