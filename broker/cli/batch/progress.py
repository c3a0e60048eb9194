"""Shows how far a batch is: a bar in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from broker.batch import states
from broker.batch.meter import Meter, Speed
from broker.translate.batches import STATUSES

# Nothing becomes of a batch after these.
FINAL = frozenset(STATUSES[status] for status in states.FINAL)
# Without a terminal, a line this often, and whenever the status changes.
_LINE_S = 10.0


def describe(seen: dict[str, Any], speed: Speed) -> str:
    """What stands beside the bar."""
    batch = seen["batch"]
    counts = batch["request_counts"]
    ended = counts["completed"] + counts["failed"]
    parts = [f"{ended:,}/{counts['total']:,}"]
    if batch["status"] == STATUSES[states.VALIDATING]:
        parts = [f"{seen.get('validated', 0):,} lines"]
    if counts["failed"]:
        parts.append(f"{counts['failed']:,} failed")
    if native := batch.get("millrace", {}).get("native"):
        parts.append(f"{native:,} by the provider's batch API")
    if speed.lines:
        parts.append(f"{speed.lines:,.1f} lines/s")
        parts.append(f"{speed.tokens:,.0f} tokens/s")
    if cost := float(seen.get("cost") or 0):
        projected = cost * counts["total"] / ended if ended else cost
        parts.append(f"${cost:,.4f} of ~${projected:,.4f}")
    if speed.left_s:
        parts.append(f"{span(speed.left_s)} left")
    if batch.get("millrace", {}).get("paused"):
        parts.append("paused")
    return ", ".join(parts)


def below(seen: dict[str, Any]) -> list[str]:
    """A line for each model that the batch uses, and for what lines of it wait for."""
    lines = [f"{one['provider']}/{one['model']}: {one['said']}" for one in seen.get("capacity", ())]
    lines += [
        f"lines wait for {delay['provider']}/{delay['model']}: {delay['message']}"
        for delay in seen.get("delays", ())
    ]
    return lines


def span(seconds: float) -> str:
    """A time in words."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


class Display(Protocol):
    """Where it is shown."""

    def show(self, seen: dict[str, Any], speed: Speed) -> None:
        """How far it is now."""

    def say(self, text: str) -> None:
        """Something else that the user should know; "" when it is over."""


class _Bar:
    """A bar with lines of text below: beside it they would be cut off in most terminals."""

    def __init__(self, live: Live) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
        )
        self._live = live
        self._progress = Progress(*columns)
        self._task = self._progress.add_task("waiting", total=None)
        self._tell()

    def show(self, seen: dict[str, Any], speed: Speed) -> None:
        batch = seen["batch"]
        counts = batch["request_counts"]
        self._progress.update(
            self._task,
            description=batch["status"],
            total=counts["total"] or None,
            completed=counts["completed"] + counts["failed"],
        )
        self._tell(describe(seen, speed), *below(seen))

    def say(self, text: str) -> None:
        if text:
            self._tell(f"waiting for the edge: {text}")

    def _tell(self, *lines: str) -> None:
        self._live.update(Group(self._progress, *map(Text, lines)))


class _Lines:
    def __init__(self) -> None:
        self._status = ""
        self._at = 0.0

    def show(self, seen: dict[str, Any], speed: Speed) -> None:
        status, now = seen["batch"]["status"], time.monotonic()
        if status != self._status or now > self._at + _LINE_S:
            self._status, self._at = status, now
            for line in (f"{status}: {describe(seen, speed)}", *below(seen)):
                typer.echo(line, err=True)

    def say(self, text: str) -> None:
        if text:
            typer.echo(f"waiting for the edge: {text}", err=True)


@contextmanager
def display() -> Iterator[Display]:
    """What fits standard error."""
    if not sys.stderr.isatty():
        yield _Lines()
        return
    # What goes to standard output is for whoever reads it there.
    with Live(console=Console(stderr=True), redirect_stdout=False) as live:
        yield _Bar(live)


def follow(look: Callable[[], dict[str, Any]], shown: Display) -> dict[str, Any]:
    """Show the batch until it is over; returns it as it is then."""
    meter = Meter()
    while True:
        seen = look()
        batch = seen["batch"]
        shown.show(seen, _speed(meter, batch))
        if batch["status"] in FINAL:
            return dict(batch)
        time.sleep(1)


def _speed(meter: Meter, batch: dict[str, Any]) -> Speed:
    counts = batch["request_counts"]
    tokens = (batch.get("usage") or {}).get("total_tokens", 0)
    ended = counts["completed"] + counts["failed"]
    return meter.see(time.monotonic(), ended, tokens, counts["total"])
