"""Writes what a batch answered: rows of the batch API, or each input row with its answer."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from broker.cli.batch import rows
from broker.cli.batch.rows import InputError


def merged(results: Iterable[bytes], again: Iterable[bytes]) -> Iterator[bytes]:
    """Rows of `results`, in place of some the rows of the same name in `again`.

    Both are in the order of the input. What only `again` has comes last: it has everything, where
    the first run ended before its first line.
    """
    others = iter(again)
    other = next(others, None)
    for result in results:
        if other is not None and _name(other) == _name(result):
            yield other
            other = next(others, None)
        else:
            yield result
    if other is not None:
        yield other
        yield from others


def _name(result: bytes) -> str:
    return str(json.loads(result)["custom_id"])


def beside(source: Path, results: Iterable[bytes]) -> Iterator[bytes]:
    """Each row of the input with `answer`, or with `error`, in the order of the input."""
    given = rows.read(source)
    for result in results:
        row = next(given, None)
        if row is None:
            raise InputError(f"{source} has fewer rows than the batch; was it changed?")
        told = {**row.fields, **_told(json.loads(result))}
        yield json.dumps(told, ensure_ascii=False, default=str).encode() + b"\n"


def _told(result: dict[str, Any]) -> dict[str, Any]:
    response = result.get("response")
    if response is None:
        return {"answer": None, "error": result.get("error")}
    body = response.get("body") or {}
    if response.get("status_code", 0) >= 400:
        return {"answer": None, "error": body.get("error", body)}
    return {"answer": _text(body), "error": None}


def _text(body: dict[str, Any]) -> Any:
    """What one wants of an answer: its text, its vectors, or all of it."""
    for choice in body.get("choices", ())[:1]:
        if "text" in choice:
            return choice["text"]
        message = choice.get("message", {})
        if message.get("tool_calls"):
            return message
        return message.get("content") or message.get("refusal")
    if body.get("object") == "response":
        parts = (part for item in body.get("output", ()) for part in item.get("content") or ())
        return "".join(part.get("text", "") for part in parts)
    data = body.get("data")
    if isinstance(data, list) and len(data) == 1 and "embedding" in data[0]:
        return data[0]["embedding"]
    return body


def write(output: Path, lines: Iterable[bytes]) -> int:
    """Write a file, whole or not at all; returns how many lines it has. Raises `InputError`."""
    fresh = output.with_name(output.name + ".part")
    count = 0
    try:
        with fresh.open("wb") as file:
            for line in lines:
                file.write(line)
                count += 1
        fresh.replace(output)
    except OSError as exc:
        raise InputError(f"{output} cannot be written: {exc.strerror or exc}") from exc
    return count
