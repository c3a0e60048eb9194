"""Commands about batches that exist: look at them, follow them, read them, stop them."""

from __future__ import annotations

import datetime as dt
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import typer
from rich.table import Table

from broker.batch.meter import Speed
from broker.cli.api import client
from broker.cli.batch import answers, mistakes
from broker.cli.batch.calls import Calls
from broker.cli.batch.progress import below, describe, display, follow, span
from broker.cli.batch.run import Job, explained, prepare
from broker.cli.options import console, fail
from broker.settings import Settings


def _say(text: str) -> None:
    if text:
        typer.echo(f"waiting for the edge: {text}", err=True)


def show_list(settings: Settings, limit: int) -> None:
    """Print one batch a line."""
    with client(settings) as http:
        batches = Calls(http, _say).list(limit)
    table = Table("batch", "created", "status", "endpoint", "lines", "answered", "failed")
    for batch in batches:
        counts = batch["request_counts"]
        created = dt.datetime.fromtimestamp(batch["created_at"], dt.UTC).astimezone()
        table.add_row(
            batch["id"],
            created.strftime("%Y-%m-%d %H:%M"),
            batch["status"],
            batch["endpoint"],
            *(f"{counts[name]:,}" for name in ("total", "completed", "failed")),
        )
    if batches:
        console().print(table)
    else:
        typer.echo("there is no batch yet; make one with: millrace batch run FILE", err=True)


def show(settings: Settings, batch_id: str, *, as_json: bool) -> None:
    """Print a batch."""
    with client(settings) as http:
        seen = Calls(http, _say).progress(batch_id)
    batch = seen["batch"]
    if as_json:
        typer.echo(json.dumps(batch, indent=2))
        return
    typer.echo(f"{batch['id']}  {batch['status']}  {describe(seen, Speed())}")
    for line in below(seen):
        typer.echo(f"  {line}")
    for name in ("input_file_id", "output_file_id", "error_file_id"):
        if batch.get(name):
            typer.echo(f"  {name.removesuffix('_id').replace('_', ' ')}: {batch[name]}")
    for text in mistakes.words(mistakes.of(batch)):
        typer.echo(f"  {text}")


def watch(settings: Settings, batch_id: str) -> None:
    """Follow a batch; ends with an error when it did not complete."""
    with client(settings) as http, display() as shown:
        calls = Calls(http, shown.say)
        try:
            batch = follow(lambda: calls.progress(batch_id), shown)
        except KeyboardInterrupt:
            typer.echo(f"\n{batch_id} goes on without you", err=True)
            raise typer.Exit(130) from None
    counts = batch["request_counts"]
    typer.echo(
        f"{batch_id} is {batch['status']}: {counts['completed']:,} of {counts['total']:,} answered"
    )
    if batch["status"] != "completed":
        raise typer.Exit(1)


def results(settings: Settings, batch_id: str, output: Path | None) -> None:
    """Write the rows that there are."""
    with explained(), client(settings) as http:
        lines = Calls(http, _say).results(batch_id)
        if output is not None:
            count = answers.write(output, lines)
            typer.echo(f"{output}: {count:,} rows", err=True)
            return
        try:
            for line in lines:
                sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            raise typer.Exit(141) from None


def act(settings: Settings, batch_id: str, action: str) -> None:
    """Do something to a batch and print what it is then."""
    with client(settings) as http:
        batch = Calls(http, _say).act(batch_id, action)
    beyond = batch.get("millrace", {})
    said = "paused" if beyond.get("paused") else batch["status"]
    typer.echo(f"{batch['id']}  {said}")


def estimate(settings: Settings, job: Job) -> None:
    """Print what a batch of this file would be."""
    with explained(), tempfile.TemporaryFile() as content, client(settings) as http:
        prepared = prepare(job, content)
        calls = Calls(http, _say)
        file_id = calls.upload(content, f"{job.source.stem}.jsonl")
        body = {"mixed_models": True, "large": True, "endpoint": prepared.endpoint, **job.options}
        try:
            found = calls.estimate({"input_file_id": file_id, **body})
        finally:
            calls.delete_file(file_id)
    _tell(found, job)


def _tell(found: dict[str, Any], job: Job) -> None:
    errors = mistakes.of(found)
    for text in mistakes.words(errors, job.source):
        typer.echo(f"  {text}", err=True)
    if errors:
        fail(f"{job.source} would be refused for {mistakes.count(errors)} mistakes")
    typer.echo(f"lines           {found['total']:,}")
    for model, count in found["models"].items():
        typer.echo(f"  {model}  {count:,}")
    typer.echo(f"asked twice     {found['duplicates']:,}")
    typer.echo(f"input tokens    ~{found['input_tokens']:,}")
    most, low, high = (found.get(name) for name in ("output_tokens", "cost_low", "cost_high"))
    unbounded = "any number: set max_tokens to bound them"
    typer.echo(f"output tokens   {unbounded if most is None else f'at most {most:,}'}")
    cost = f"${low} to ${high}" if high else f"${low} and the output tokens"
    typer.echo(f"cost            {cost if low else 'the price is not known'}")
    took = "not known: nobody has asked these models lately, or no worker is there"
    if found.get("seconds") is not None:
        took = f"~{span(found['seconds'])} at the present pace, if nobody else asks"
    typer.echo(f"time            {took}")
