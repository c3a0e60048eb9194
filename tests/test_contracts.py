"""What modules say of themselves is what the import contracts hold them to."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PACKAGES = ("broker", "edge", "workers")
_PURE = re.compile(r"\bpure\b")


def _contract(beginning: str) -> dict[str, Any]:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contracts: list[dict[str, Any]] = settings["tool"]["importlinter"]["contracts"]
    return next(one for one in contracts if one["name"].startswith(beginning))


def _modules() -> dict[str, str]:
    """The docstrings of all modules by name; generated ones have none."""
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): (
            ast.get_docstring(ast.parse(path.read_text())) or ""
        )
        for path in files
    }


def test_a_module_that_says_it_is_pure_is_held_to_it() -> None:
    held = tuple(_contract("policy and translation are pure")["source_modules"])
    said = [name for name, told in _modules().items() if _PURE.search(told.split("\n\n")[0])]
    assert len(said) > 50
    loose = [name for name in said if not f"{name}.".startswith(tuple(f"{one}." for one in held))]
    assert loose == []


def test_contracts_name_modules_that_are_there() -> None:
    there = set(_modules())
    for beginning in ("policy and translation", "translation knows nothing"):
        contract = _contract(beginning)
        named = [*contract["source_modules"], *contract["forbidden_modules"]]
        ours = [name for name in named if name.split(".")[0] in PACKAGES]
        assert [name for name in ours if name not in there] == []
