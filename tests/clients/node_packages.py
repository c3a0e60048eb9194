"""Runs a script of tests/clients/node with the packages that `make test` puts beside it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.system.stack import KEY, Stack

FOLDER = Path(__file__).parent / "node"


def run_node(script: str, stack: Stack, given: Any, timeout_s: float = 100) -> list[dict[str, Any]]:
    """The lines of JSON that a script prints; skips where Node or its packages are missing."""
    if not shutil.which("node"):
        pytest.skip("node is missing")
    # npm writes it last.
    if not (FOLDER / "node_modules" / ".package-lock.json").exists():
        pytest.skip("the packages of tests/clients/node are missing; make test installs them")
    env = {**os.environ, "OPENAI_BASE_URL": f"{stack.url()}/v1", "OPENAI_API_KEY": KEY}
    done = subprocess.run(
        ["node", script],
        cwd=FOLDER,
        env=env,
        input=json.dumps(given),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]
