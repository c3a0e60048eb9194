"""`millrace files`, run as its users run it against a Millrace that is up."""

from __future__ import annotations

import os
import pty
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.harness import MILLRACE, Up, clean_environment, millrace

LINES = b'{"custom_id": "1"}\n'


@pytest.fixture
def env(running: Up) -> dict[str, str]:
    return running.env


@pytest.fixture
def uploaded(env: dict[str, str], tmp_path: Path) -> Iterator[str]:
    path = tmp_path / "lines.jsonl"
    path.write_bytes(LINES)
    name = millrace("files", "upload", str(path), env=env).stdout.strip()
    yield name
    millrace("files", "delete", name, env=env)


def test_a_file_is_uploaded_listed_read_and_deleted(env: dict[str, str], uploaded: str) -> None:
    assert uploaded.startswith("file-")
    listed = millrace("files", "list", "--purpose", "batch", env=env).stdout
    row = next(line for line in listed.splitlines() if line.startswith(uploaded))
    assert row.split()[1:4] == ["lines.jsonl", "batch", str(len(LINES))]
    assert millrace("files", "get", uploaded, env=env).stdout.encode() == LINES
    assert millrace("files", "delete", uploaded, env=env).stdout == f"deleted {uploaded}\n"
    gone = millrace("files", "get", uploaded, env=env)
    assert gone.returncode == 1
    assert f"No such File object: {uploaded}" in gone.stderr


def test_a_download_that_broke_off_goes_on(env: dict[str, str], tmp_path: Path) -> None:
    body = random.Random(1).randbytes(1_000_000)
    source, target = tmp_path / "body", tmp_path / "out"
    source.write_bytes(body)
    arguments = ("--purpose", "user_data", "--expires", "3600")
    name = millrace("files", "upload", str(source), *arguments, env=env).stdout.strip()
    # What is there already is not fetched again: these bytes are others, to show it.
    (tmp_path / f".out.{name}.part").write_bytes(b"x" * 600_000)
    result = millrace("files", "get", name, "-o", str(target), env=env)
    assert result.returncode == 0, result.stderr
    assert target.read_bytes() == b"x" * 600_000 + body[600_000:]
    folder = tmp_path / "folder"
    folder.mkdir()
    millrace("files", "get", name, "-o", str(folder), env=env)
    assert (folder / "body").read_bytes() == body
    assert not list(tmp_path.rglob("*.part"))
    millrace("files", "delete", name, env=env)


def test_on_a_terminal_there_is_a_bar(env: dict[str, str], uploaded: str, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    command = [MILLRACE, "files", "get", uploaded, "-o", str(tmp_path / "out")]
    environment = clean_environment(**env, TERM="xterm", COLUMNS="120")
    subprocess.run(command, env=environment, stderr=theirs, check=True, timeout=40)
    os.close(theirs)
    shown = os.read(ours, 65536).decode()
    os.close(ours)
    assert "100%" in shown or "19/19 bytes" in shown, shown


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("upload", "missing.jsonl"), "cannot read missing.jsonl: No such file or directory"),
        (("upload", "a.txt"), "Invalid file format for Batch API. Must be .jsonl (field file"),
        (("upload", "a.txt", "--purpose", "fun"), "Supported values are"),
        (("upload", "a.txt", "--purpose", "vision", "--expires", "1"), "expires_after.seconds"),
        (("get", "file-nope"), "No such File object: file-nope"),
        (("delete", "file-nope"), "No such File object: file-nope"),
    ],
)
def test_a_mistake_is_one_line(
    env: dict[str, str], tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    (tmp_path / "a.txt").write_bytes(b"a")
    result = millrace("files", *arguments, env=env, cwd=tmp_path)
    assert result.returncode == 1
    [line] = result.stderr.strip().splitlines()
    assert line.startswith("millrace: ")
    assert says in line
