"""Every rule of the protocol has a test that is named after it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
_NAMED = re.compile(r"def test_r(\d+)_")
# Claim then run, identity, a lost worker, resume, one call per attempt, poison, a lost edge, cancel,
# backpressure, large bodies, time, presence, acceptance, no leader, drain, money, background logs,
# secrets.
RULES = [*range(1, 17), 19, 20]


@pytest.fixture(scope="module")
def named() -> set[int]:
    files = [path.read_text() for path in TESTS.rglob("test_*.py")]
    return {int(number) for text in files for number in _NAMED.findall(text)}


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_has_a_test_of_its_name(rule: int, named: set[int]) -> None:
    assert rule in named
