from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from tests.cli.harness import Up, clean_environment, starting

ROOT = Path(__file__).resolve().parents[2]
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """One Millrace for all examples, with its data where `make run` has it: ./millrace-data."""
    folder = tmp_path_factory.mktemp("examples")
    with starting(folder) as start:
        up = start(data=folder / "millrace-data")
        yield up
        assert up.stop() == 0


@pytest.fixture(scope="session")
def run(up: Up) -> Run:
    """Runs a command as the documentation says: in the root, address and key in the environment."""

    def run(
        command: Sequence[str],
        *,
        cwd: Path = ROOT,
        env: Mapping[str, str] = {},
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        found = {"MILLRACE_HTTP": up.http, "MILLRACE_GRPC": up.grpc, "MILLRACE_API_KEY": up.api_key}
        whole = {**clean_environment(**found), **env}
        result = subprocess.run(
            command, cwd=cwd, env=whole, capture_output=True, text=True, timeout=60, check=False
        )
        assert not check or result.returncode == 0, result.stdout + result.stderr
        return result

    return run


@pytest.fixture(scope="session")
def example(run: Run) -> Run:
    """Runs one of the Python examples by its name."""

    def example(
        name: str, *arguments: str, env: Mapping[str, str] = {}, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", f"examples.python.{name}", *arguments]
        return run(command, env=env, check=check)

    return example
