"""`millrace batch run`: makes a batch of a file, follows it, and writes what it answers."""

from __future__ import annotations

import contextlib
import hashlib
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import typer

from broker.cli.api import client
from broker.cli.batch import answers, mistakes, rows, saved
from broker.cli.batch.calls import Calls
from broker.cli.batch.lines import Wish, check_columns, endpoint_of, line
from broker.cli.batch.progress import Display, display, follow
from broker.cli.batch.rows import InputError
from broker.cli.options import fail
from broker.settings import Settings


@dataclass(frozen=True, slots=True)
class Job:
    """What to run, and where its answers go."""

    source: Path
    output: Path
    wish: Wish
    # Fields of the batch itself: completion_window, max_cost and so on.
    options: dict[str, Any] = field(default_factory=dict)
    # Whether to run it anew although it was run before.
    again: bool = False
    # Whether to run rows again that failed.
    retry: bool = False
    # Whether to come back as soon as the batch is made.
    detach: bool = False


@dataclass(frozen=True, slots=True)
class Prepared:
    """The batch's own file, and whether the rows were lines of a batch already."""

    content: BinaryIO
    endpoint: str
    count: int
    lines: bool
    digest: str


def run(settings: Settings, job: Job) -> None:
    """Run it, or go on where the same command left off."""
    with explained(), tempfile.TemporaryFile() as content:
        prepared = prepare(job, content)
        kept = _begin(job, prepared)
        with client(settings) as http, display() as shown:
            calls = Calls(http, shown.say)
            try:
                batch = _run(calls, shown, job, prepared, kept)
            except KeyboardInterrupt:
                _leave(kept, job)
        if batch is not None:
            finish(batch, job)


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Mistakes of the input end the command with one line."""
    try:
        yield
    except InputError as exc:
        fail(str(exc))


def prepare(job: Job, content: BinaryIO) -> Prepared:
    """Write the lines of the batch into `content`. Raises `InputError` naming what is wrong."""
    wish, lines, count = job.wish, False, 0
    digest = hashlib.sha256(json.dumps(job.options, sort_keys=True).encode())
    wrong: list[str] = []
    for row in rows.read(job.source):
        if not count and (endpoint := endpoint_of(row, wish)) is not None:
            wish, lines = replace(wish, endpoint=endpoint), True
        count += 1
        try:
            if not lines:
                check_columns(row)
            made = row.fields if lines else line(row, wish)
            data = rows.encoded(row, made) + b"\n"
        except InputError as exc:
            wrong.append(str(exc))
            continue
        digest.update(data)
        content.write(data)
    if wrong:
        more = f"; and {len(wrong) - mistakes.SHOWN} more" if len(wrong) > mistakes.SHOWN else ""
        raise InputError(f"{job.source}: " + "; ".join(wrong[: mistakes.SHOWN]) + more)
    if not count:
        raise InputError(f"{job.source} has no rows")
    return Prepared(content, wish.endpoint, count, lines, digest.hexdigest())


def _begin(job: Job, prepared: Prepared) -> saved.Saved:
    """The run that the output belongs to, or a new one."""
    if job.again:
        saved.forget(job.output)
    kept = saved.load(job.output)
    if kept is not None and not kept.batch_id and kept.asked != prepared.digest:
        kept = None  # nothing came of it
    if kept is None:
        if job.output.exists() and not (job.again or saved.place(job.output).exists()):
            raise InputError(f"{job.output} exists; choose another --output, or say --again")
        kept = saved.Saved.fresh(prepared.digest)
        saved.save(job.output, kept)
    elif kept.asked != prepared.digest:
        raise InputError(
            f"{job.output} belongs to a run of other rows or options (see "
            f"{saved.place(job.output)}); choose another --output, or say --again to begin anew"
        )
    return kept


def _run(
    calls: Calls, shown: Display, job: Job, prepared: Prepared, kept: saved.Saved
) -> dict[str, Any] | None:
    pending = len(kept.retries) > kept.merged
    if kept.done and job.output.exists() and not pending and not job.retry:
        typer.echo(f"{job.output} is whole already; --again runs it anew", err=True)
        return None
    if not kept.batch_id:
        if not kept.file_id:
            kept.file_id = calls.upload(prepared.content, f"{job.source.stem}.jsonl")
            saved.save(job.output, kept)
        body = {"input_file_id": kept.file_id, "endpoint": prepared.endpoint, **job.options}
        kept.batch_id = str(calls.create(body, kept.key)["id"])
        saved.save(job.output, kept)
    elif job.retry and not pending:
        _retry(calls, shown, job, kept)
    if job.detach:
        typer.echo(kept.last)
        return None
    batch = follow(lambda: calls.progress(kept.last), shown)
    if batch["status"] == "failed":
        if not kept.retries:
            saved.forget(job.output)
        return batch
    results = calls.results(kept.batch_id)
    for retry in kept.retries:
        results = answers.merged(results, calls.results(retry))
    if prepared.lines:
        answers.write(job.output, results)
    else:
        answers.write(job.output, answers.beside(job.source, results))
    kept.done = batch["status"] == "completed"
    kept.merged = len(kept.retries)
    saved.save(job.output, kept)
    return batch


def _retry(calls: Calls, shown: Display, job: Job, kept: saved.Saved) -> None:
    """Have the rows run again that have no answer, if there are any."""
    batch = follow(lambda: calls.progress(kept.last), shown)
    counts = batch["request_counts"]
    if batch["status"] == "completed" and counts["completed"] == counts["total"]:
        return
    if batch["status"] != "failed":
        kept.retries.append(str(calls.act(kept.last, "retry")["id"]))
        saved.save(job.output, kept)


def _leave(kept: saved.Saved, job: Job) -> None:
    """Ctrl-C: the batch runs on."""
    if kept.batch_id:
        typer.echo(
            f"\n{kept.last} goes on without you. To follow it: "
            f"millrace batch watch {kept.last}; the same command again writes {job.output}; "
            f"to stop it: millrace batch cancel {kept.last}",
            err=True,
        )
    else:
        typer.echo("\nno batch was made; the same command again makes one", err=True)
    raise typer.Exit(130) from None


def finish(batch: dict[str, Any], job: Job) -> None:
    """Say how it ended; the command fails when a line did."""
    counts = batch["request_counts"]
    status, missing = batch["status"], counts["total"] - counts["completed"]
    if status == "failed":
        for text in mistakes.words(mistakes.of(batch), job.source):
            typer.echo(f"  {text}", err=True)
        fail(f"{batch['id']} failed: nothing was run; mend {job.source} and run it again")
    typer.echo(f"{job.output}: {counts['completed']:,} of {counts['total']:,} answered", err=True)
    if status != "completed":
        fail(f"{batch['id']} is {status}; the same command with --retry runs the rest")
    if missing:
        fail(f"{missing:,} failed; the same command with --retry runs them again")
