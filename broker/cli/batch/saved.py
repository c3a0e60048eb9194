"""What a run leaves beside its output, so that the same command goes on where it was."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from dataclasses import asdict, dataclass, field
from pathlib import Path

from broker.cli.batch.rows import InputError


@dataclass(slots=True)
class Saved:
    """One run. It is written before the batch is made: `key` makes it one batch."""

    # SHA-256 of what was asked for, in hex.
    asked: str
    key: str
    file_id: str = ""
    batch_id: str = ""
    # The output is whole.
    done: bool = False
    # Batches that ran failed rows again, each those of the one before, and how many of them the
    # output has.
    retries: list[str] = field(default_factory=list)
    merged: int = 0

    @property
    def last(self) -> str:
        """The batch that ran last."""
        return self.retries[-1] if self.retries else self.batch_id

    @classmethod
    def fresh(cls, asked: str) -> Saved:
        """A run that has not begun."""
        return cls(asked, secrets.token_hex(16))


def place(output: Path) -> Path:
    """Where the run of an output is kept."""
    return output.with_name(output.name + ".batch")


def load(output: Path) -> Saved | None:
    """What was left there. Raises `InputError` when it cannot be read."""
    path = place(output)
    try:
        return Saved(**json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as exc:
        raise InputError(f"{path} cannot be read ({exc}); remove it to begin anew") from exc


def save(output: Path, saved: Saved) -> None:
    """Keep it: whole or not at all."""
    path = place(output)
    fresh = path.with_name(path.name + ".new")
    try:
        with fresh.open("w") as file:
            json.dump(asdict(saved), file)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except OSError as exc:
        raise InputError(f"{path} cannot be written: {exc.strerror or exc}") from exc


def forget(output: Path) -> None:
    """Begin anew next time."""
    with contextlib.suppress(FileNotFoundError):
        place(output).unlink()
