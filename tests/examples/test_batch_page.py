"""docs/batch.md: its commands are run, and print what it shows."""

from __future__ import annotations

import doctest

from tests.cli.harness import Up
from tests.examples.conftest import ROOT
from tests.examples.test_readme import blocks, shell

PAGE = (ROOT / "docs" / "batch.md").read_text()


def test_its_commands_print_what_it_shows(up: Up) -> None:
    (script,) = blocks(PAGE, "sh")
    (shown,) = blocks(PAGE, "text")
    found = shell(script, up)
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    assert doctest.OutputChecker().check_output(shown, found, options), found
