"""The stubs by themselves: a client with broker/v1 and three packages, and nothing of the server."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.examples.conftest import ROOT, Run

# What requirements.txt installs: the four packages, and what grpcio itself needs.
PACKAGES = ("google", "grpc", "grpc_status", "typing_extensions.py")
COPY, GENERATE = (
    block
    for block in re.findall(
        r"```sh\n(.*?)```", (ROOT / "examples" / "README.md").read_text(), re.DOTALL
    )
    if "client" in block
)


@pytest.fixture(params=[COPY, GENERATE], ids=["copied", "generated"])
def client(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """The environment of a client made as the documentation says; -S keeps all else out."""
    for needed in ("protos", "broker"):
        (tmp_path / needed).symlink_to(ROOT / needed)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    subprocess.run(
        ["sh", "-euc", request.param], cwd=tmp_path, env={**os.environ, "PATH": path}, check=True
    )
    packages = tmp_path / "packages"
    packages.mkdir()
    for name in PACKAGES:
        (packages / name).symlink_to(Path(sysconfig.get_path("purelib")) / name)
    shutil.copytree(ROOT / "examples" / "python", tmp_path / "client" / "examples" / "python")
    return {"PYTHONPATH": f"{tmp_path / 'client'}:{packages}"}


def test_a_client_runs_with_the_stubs_alone(
    run: Run, client: dict[str, str], tmp_path: Path
) -> None:
    python = [sys.executable, "-S"]
    result = run(
        [*python, "-m", "examples.python.infer", "Say this", "sim/echo"], cwd=tmp_path, env=client
    )
    assert result.stdout.splitlines()[0] == "Say this"
    result = run(
        [*python, "-m", "examples.python.infer", "Hello", "nobody/x"],
        cwd=tmp_path,
        env=client,
        check=False,
    )
    assert result.stderr.startswith("model_not_found: ")
    # The whole surface, not only what that example imports.
    modules = [path.stem for path in (ROOT / "broker" / "v1").glob("*_pb2*.py")]
    assert len(modules) > 8
    code = "import importlib, sys\nfor m in sys.argv[1:]: print(importlib.import_module('broker.v1.' + m).__file__)"
    found = run([*python, "-c", code, *modules], cwd=tmp_path / "client", env=client).stdout
    assert all(line.startswith(str(tmp_path / "client")) for line in found.splitlines())


def test_nothing_of_the_server_is_there(run: Run, client: dict[str, str], tmp_path: Path) -> None:
    code = """
import importlib.util
for name in ("broker.errors", "edge", "workers", "nats", "fastapi", "httpx", "msgspec"):
    assert importlib.util.find_spec(name) is None, name
"""
    run([sys.executable, "-S", "-c", code], cwd=tmp_path / "client", env=client)
