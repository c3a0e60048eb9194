"""Reads the rows of an input file, whatever its format, one at a time."""

from __future__ import annotations

import csv
import datetime as dt
import decimal
import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

# Of a column of CSV: a document may be one.
_MOST_COLUMN = 512 << 20
# What columns of Parquet are made of that JSON has no word for: their usual text stands for it.
_AS_TEXT = (dt.date, dt.time, dt.timedelta, decimal.Decimal, uuid.UUID)


class Row(NamedTuple):
    """One row: where it stands in the file, and what it says."""

    # From 1, as an editor counts; of Parquet the row.
    number: int
    fields: dict[str, Any]


class InputError(Exception):
    """The file cannot be used; the message says where and what to change."""


def read(path: Path) -> Iterator[Row]:
    """The rows of a file, by what its name ends with. Raises `InputError`."""
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        known = ", ".join(sorted(_READERS))
        raise InputError(f"{path} is of no known format; name it with one of {known}")
    try:
        yield from reader(path)
    except FileNotFoundError:
        raise InputError(f"there is no file {path}") from None
    except OSError as exc:
        raise InputError(f"{path} cannot be read: {exc.strerror or exc}") from exc
    except UnicodeDecodeError as exc:
        raise InputError(f"{path} is not UTF-8: {exc.reason} at byte {exc.start}") from exc


def encoded(row: Row, value: object) -> bytes:
    """A value made of a row, as JSON on one line. Raises `InputError`."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, default=_as_text).encode()
    except TypeError as exc:
        wrong = f"{exc}; leave the column out, or make it text"
    except UnicodeEncodeError:
        wrong = "half of a character (a lone surrogate), which no text may have"
    except ValueError:
        wrong = "NaN or an infinite number, which JSON lacks"
    raise InputError(f"row {row.number} has {wrong}")


def _as_text(value: object) -> str:
    if isinstance(value, _AS_TEXT):
        return str(value)
    raise TypeError(f"a value of type {type(value).__name__}")


def _jsonl(path: Path) -> Iterator[Row]:
    # A mark that some editors put in front is no part of the first row.
    with path.open(encoding="utf-8-sig", newline="\n") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                fields = json.loads(line)
            except ValueError as exc:
                raise InputError(f"{path} line {number}: not JSON: {exc}") from None
            if isinstance(fields, str):  # a prompt and nothing else
                fields = {"prompt": fields}
            if not isinstance(fields, dict):
                raise InputError(f"{path} line {number}: neither an object nor a text")
            yield Row(number, fields)


def _csv(path: Path, delimiter: str = ",") -> Iterator[Row]:
    csv.field_size_limit(_MOST_COLUMN)
    with path.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines, delimiter=delimiter, strict=True)
        try:
            for fields in reader:
                if None in fields or None in fields.values():
                    wide = len(reader.fieldnames or ())
                    raise InputError(
                        f"{path} line {reader.line_num}: it does not have the {wide} columns that "
                        "the first line names"
                    )
                yield Row(reader.line_num, dict(fields))
        except csv.Error as exc:
            raise InputError(f"{path} line {reader.line_num}: {exc}") from exc


def _tsv(path: Path) -> Iterator[Row]:
    return _csv(path, "\t")


def _parquet(path: Path) -> Iterator[Row]:
    try:
        from pyarrow import ArrowException, parquet  # noqa: PLC0415 - few need it
    except ImportError:
        raise InputError(
            f"to read {path} install pyarrow: pip install 'millrace[parquet]'"
        ) from None
    try:
        number = 0
        with parquet.ParquetFile(path) as file:
            for group in file.iter_batches(batch_size=1000):
                for fields in group.to_pylist():
                    number += 1
                    yield Row(number, fields)
    except ArrowException as exc:
        raise InputError(f"{path} is no Parquet file: {exc}") from exc


_READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".csv": _csv,
    ".tsv": _tsv,
    ".parquet": _parquet,
}
