"""The Node examples against a running Millrace, installed from their lock."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from google.rpc import status_pb2

from tests.examples.conftest import ROOT, Run

NODE = ROOT / "examples" / "node"
needs_node = pytest.mark.skipif(
    not (shutil.which("node") and shutil.which("npm")), reason="node or npm is missing"
)
Node = Callable[..., CompletedProcess[str]]


@pytest.fixture(scope="module")
def node(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Node:
    """Runs a Node example in a copy of examples/node that has its packages."""
    root = tmp_path_factory.mktemp("node")
    folder = root / "examples" / "node"
    shutil.copytree(NODE, folder, ignore=shutil.ignore_patterns("node_modules"))
    (root / "protos").symlink_to(ROOT / "protos")
    run(["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"], cwd=folder)

    def node(name: str, *arguments: str, check: bool = True) -> CompletedProcess[str]:
        return run(["node", f"{name}.mjs", *arguments], cwd=folder, check=check)

    return node


@needs_node
def test_infer_prints_the_answer_and_who_gave_it(node: Node) -> None:
    text, who = node("infer", "Say this", "sim/echo").stdout.splitlines()
    assert text == "Say this"
    assert who.startswith("-- sim/echo, ")


@needs_node
def test_infer_stream_prints_the_pieces_and_the_usage(node: Node) -> None:
    *text, usage = node("infer_stream", "Hello", "sim/hello").stdout.splitlines()
    assert text[0].startswith("Hello from sim")
    assert usage == "-- 20 tokens"


@needs_node
def test_infer_many_gives_every_line_its_result(node: Node, tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("".join(f"prompt {n}\n" for n in range(1000)))
    lines = node("infer_many", str(file)).stdout.splitlines()
    assert lines.pop() == "-- 1000 answered, 0 failed"
    assert dict(line.split("\t") for line in lines) == {
        f"line-{n + 1}": f"prompt {n}" for n in range(1000)
    }


@needs_node
def test_a_failure_of_a_bulk_call_fails_alone(node: Node, tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("one\ntwo\nthree\n")
    model = "sim/echo,status=400,first_n=1,key=node"
    lines = node("infer_many", str(file), model).stdout.splitlines()
    assert lines.pop() == "-- 2 answered, 1 failed"
    assert [line for line in lines if line.endswith("\tinvalid_request: simulated status 400")]


@needs_node
@pytest.mark.parametrize("name", ["infer", "infer_stream"])
def test_an_error_has_its_reason_its_field_and_when_to_retry(node: Node, name: str) -> None:
    result = node(name, "Hello", "nobody/x", check=False)
    assert result.returncode == 1
    assert "reason: 'model_not_found'" in result.stderr
    assert "param: 'model'" in result.stderr
    # A model of its own: one that is over its limit is not asked again meanwhile.
    result = node(name, "Hello", f"sim/status=429,retry_after=50,key=node-{name}", check=False)
    assert "reason: 'upstream_rate_limit'" in result.stderr
    assert "retryAfter: 50" in result.stderr


@pytest.mark.parametrize("folder", [NODE, ROOT / "tests" / "clients" / "node"])
def test_every_package_is_pinned_by_version_and_checksum_and_no_index_is_named(
    folder: Path,
) -> None:
    package = json.loads((folder / "package.json").read_text())
    for name, wanted in package["dependencies"].items():
        assert re.fullmatch(r"\d+\.\d+\.\d+", wanted), name
    lock = json.loads((folder / "package-lock.json").read_text())
    for name, row in lock["packages"].items():
        if name:
            assert row["integrity"].startswith("sha512-"), name
            assert "resolved" not in row, name


@pytest.mark.parametrize("name", ["status.proto", "error_details.proto"])
def test_the_protos_that_node_brings_along_are_those_of_the_python_package(name: str) -> None:
    package = Path(status_pb2.__file__).parent

    def below_the_license(folder: Path) -> str:
        return (folder / name).read_text().partition("syntax =")[2]

    assert below_the_license(package)
    assert below_the_license(NODE / "googleapis" / "google" / "rpc") == below_the_license(package)
