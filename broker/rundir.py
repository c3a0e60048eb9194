"""The run folder `<data>/run`: what `millrace up` leaves there for itself and for other processes.

`processes.json` lists the children, `nats.url` says how to reach its NATS, `api_key` is the key it
generated. Everything with a secret in it is readable by its owner alone, and every file is replaced
whole, so that a reader never sees half of one.
"""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO


class RunFolderError(Exception):
    """The data folder cannot be used; the message says what to do."""


class RunFolder:
    """`<data>/run`. Reading needs nothing; `open` creates and locks it for one supervisor."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.path = data / "run"
        self._lock: IO[str] | None = None

    def open(self) -> None:
        """Create the folder and take its lock, which ends with this process however it dies."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = (self.path / "lock").open("a+", encoding="utf-8")
        except OSError as exc:
            raise RunFolderError(
                f"cannot write to the data folder {self.data}: {exc.strerror}; "
                "make it writable or choose another with --data or MILLRACE_DATA"
            ) from exc
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            lock.seek(0)
            owner = lock.read().strip() or "unknown"
            lock.close()
            raise RunFolderError(
                f"the data folder {self.data} is in use by process {owner}; "
                "stop that one or choose another folder with --data or MILLRACE_DATA"
            ) from exc
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        self._lock = lock

    def close(self) -> None:
        """Say that nothing runs any more, and release the lock."""
        if self._lock is None:
            return
        self.write_processes([])
        (self.path / "nats.url").unlink(missing_ok=True)
        self._lock.close()
        self._lock = None

    def locked(self) -> bool:
        """Whether a supervisor runs on this folder."""
        try:
            with (self.path / "lock").open("r", encoding="utf-8") as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except OSError:
            return True
        return False

    def write_processes(self, processes: Sequence[Mapping[str, object]]) -> None:
        """Replace the list of children: `{"role", "name", "pid"}` each."""
        _replace(self.path / "processes.json", json.dumps(processes, indent=1) + "\n", 0o644)

    def processes(self) -> list[dict[str, object]]:
        """The children listed; empty when nothing runs here."""
        text = self._read("processes.json")
        listed: list[dict[str, object]] = json.loads(text) if text else []
        return listed

    def write_nats_url(self, url: str) -> None:
        """Keep the URL of the NATS in use, credentials included."""
        _replace(self.path / "nats.url", url + "\n", 0o600)

    def nats_url(self) -> str | None:
        """The URL of the NATS that a running supervisor uses, credentials included."""
        return self._read("nats.url")

    def write_api_key(self, secret: str) -> None:
        """Keep the generated API key, so that the next run shows the same one."""
        _replace(self.path / "api_key", secret + "\n", 0o600)

    def api_key(self) -> str | None:
        """The generated API key, if there is one yet."""
        return self._read("api_key")

    def _read(self, name: str) -> str | None:
        try:
            return (self.path / name).read_text(encoding="utf-8").strip() or None
        except OSError:
            return None


def _replace(path: Path, text: str, mode: int) -> None:
    """Write a file in one step, never readable by more people than `mode` says."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        Path(name).chmod(mode)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
