"""Every rule of the protocol has a test that is named after it, and what is said to show it is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
_NAMED = re.compile(r"def test_r(\d+)_")
# Claim then run, identity, a lost worker, resume, one call per attempt, poison, a lost edge, cancel,
# backpressure, large bodies, time, presence, acceptance, no leader, drain, money, write-once results,
# nothing strands, background logs, secrets.
RULES = range(1, 21)


@pytest.fixture(scope="module")
def files() -> list[str]:
    return [path.read_text() for path in TESTS.rglob("test_*.py")]


@pytest.fixture(scope="module")
def named(files: list[str]) -> set[int]:
    return {int(number) for text in files for number in _NAMED.findall(text)}


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_has_a_test_of_its_name(rule: int, named: set[int]) -> None:
    assert rule in named


@pytest.mark.parametrize("document", ["CONTRIBUTING.md", "README.md"])
def test_the_tests_that_a_document_names_are_there(document: str, files: list[str]) -> None:
    claims = set(re.findall(r"`(test_\w+)`", (TESTS.parent / document).read_text()))
    assert claims
    there = {name for text in files for name in re.findall(r"def (test_\w+)\(", text)}
    assert claims - there == set()
