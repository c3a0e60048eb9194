"""`millrace files`: files of the API, uploaded and downloaded with a progress bar."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, cast

import httpx
import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table
from rich.text import Text

from broker.cli.api import check, client
from broker.cli.options import console, fail
from broker.files import MOST_BYTES, MOST_PART_BYTES
from broker.settings import Settings

# What is read from a disk or a socket at a time.
_CHUNK = 1 << 20
Advance = Callable[[int], None]
Ask = Callable[[Callable[[], httpx.Response]], dict[str, Any]]


def upload(settings: Settings, path: Path, purpose: str, expires_s: int | None) -> None:
    """Upload a file, in parts where it is large, and print its id."""
    try:
        source = path.open("rb")
    except OSError as exc:
        fail(f"cannot read {path}: {exc.strerror}")
    expires = {"anchor": "created_at", "seconds": expires_s} if expires_s is not None else None
    size = path.stat().st_size
    with source, client(settings) as http, _progress(path.name, size) as advance:
        if size <= MOST_BYTES:
            told = {f"expires_after[{name}]": value for name, value in (expires or {}).items()}
            form = {"file": (path.name, _part(source, 0, size, advance))}
            reply = http.post("/v1/files", data={"purpose": purpose, **told}, files=form)
            made = _checked(reply)
        else:
            wanted = {"purpose": purpose, "filename": path.name, "bytes": size}
            wanted |= {"mime_type": "application/octet-stream"}
            wanted |= {"expires_after": expires} if expires else {}
            made = in_parts(http, source, wanted, advance)
    typer.echo(made["id"])


def in_parts(
    http: httpx.Client,
    source: BinaryIO,
    wanted: dict[str, Any],
    advance: Advance = lambda _: None,
    ask: Ask = lambda send: _checked(send()),
) -> dict[str, Any]:
    """Upload more than one request takes; `ask` makes each call. Returns the file."""
    upload = ask(lambda: http.post("/v1/uploads", json=wanted))
    where, size = f"/v1/uploads/{upload['id']}", wanted["bytes"]
    ids = []
    try:
        for start in range(0, size, MOST_PART_BYTES):
            part = _part(source, start, min(MOST_PART_BYTES, size - start), advance)
            ids.append(ask(partial(_send, http, f"{where}/parts", part))["id"])
        complete = f"{where}/complete"
        return dict(ask(lambda: http.post(complete, json={"part_ids": ids}))["file"])
    except BaseException:
        with contextlib.suppress(httpx.HTTPError):
            http.post(f"{where}/cancel")
        raise


def _send(http: httpx.Client, where: str, part: BinaryIO) -> httpx.Response:
    part.seek(0)
    return http.post(where, files={"data": ("part", part)})


def show(settings: Settings, purpose: str | None, limit: int) -> None:
    """Print the newest files as a table."""
    query: dict[str, str | int] = {"limit": limit}
    if purpose:
        query["purpose"] = purpose
    with client(settings) as http:
        page = _checked(http.get("/v1/files", params=query))
    table = Table("id", "name", "purpose", "bytes", "created", "expires", box=None, pad_edge=False)
    for file in page["data"]:
        name = "".join(c if c.isprintable() else "?" for c in file["filename"])
        times = (_date(file["created_at"]), _date(file["expires_at"]))
        table.add_row(file["id"], Text(name), file["purpose"], f"{file['bytes']:,}", *times)
    console().print(table)
    if page["has_more"]:
        typer.echo("there are more; --limit shows them", err=True)


def get(settings: Settings, file_id: str, output: Path | None) -> None:
    """Write the content of a file to standard output, or to `output`, where it can be resumed."""
    with client(settings) as http:
        file = _checked(http.get(f"/v1/files/{file_id}"))
        if output is None:
            try:
                _receive(http, file, sys.stdout.buffer, 0, lambda _: None)
                sys.stdout.buffer.flush()
            except BrokenPipeError:
                raise typer.Exit(141) from None
            return
        if output.is_dir():
            output /= Path(file["filename"]).name or file_id
        # Of this file alone, whose content never changes: so what is there already is right.
        partial = output.with_name(f".{output.name}.{file_id}.part")
        try:
            with partial.open("ab") as target, _progress(output.name, file["bytes"]) as advance:
                there = target.tell()
                advance(there)
                _receive(http, file, target, there, advance)
            partial.replace(output)
        except OSError as exc:
            fail(f"cannot write {output}: {exc.strerror}")
        except KeyboardInterrupt:
            typer.echo("millrace: again with the same -o, it goes on", err=True)
            raise typer.Exit(130) from None


def _receive(
    http: httpx.Client, file: dict[str, Any], target: BinaryIO, there: int, advance: Advance
) -> None:
    if there >= file["bytes"]:
        return
    headers = {"range": f"bytes={there}-"} if there else {}
    with http.stream("GET", f"/v1/files/{file['id']}/content", headers=headers) as reply:
        if not reply.is_success:
            reply.read()
        check(reply)
        for some in reply.iter_raw(_CHUNK):
            target.write(some)
            advance(len(some))


def delete(settings: Settings, file_ids: list[str]) -> None:
    """Delete files and their bytes."""
    with client(settings) as http:
        for file_id in file_ids:
            check(http.delete(f"/v1/files/{file_id}"))
            typer.echo(f"deleted {file_id}")


class _Part(io.RawIOBase):
    """Some bytes of a file, as a file; tells how many were read."""

    def __init__(self, source: BinaryIO, start: int, size: int, advance: Advance) -> None:
        super().__init__()
        self._source = source
        self._start = start
        self._size = size
        self._at = 0
        self._advance = advance

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def read(self, size: int = -1) -> bytes:
        left = self._size - self._at
        self._source.seek(self._start + self._at)
        some = self._source.read(left if size < 0 else min(size, left))
        self._at += len(some)
        self._advance(len(some))
        return some


def _part(source: BinaryIO, start: int, size: int, advance: Advance) -> BinaryIO:
    return cast("BinaryIO", _Part(source, start, size, advance))


@contextlib.contextmanager
def _progress(name: str, size: int) -> Iterator[Advance]:
    """A bar on standard error, where somebody sees it."""
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
    )
    with bar:
        task = bar.add_task(name, total=size)
        yield lambda count: bar.advance(task, count)


def _checked(reply: httpx.Response) -> dict[str, Any]:
    check(reply)
    return dict(reply.json())


def _date(seconds: int | None) -> str:
    if seconds is None:
        return "never"
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
