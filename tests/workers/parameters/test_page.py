"""docs/providers.md says what the tables say, and the tables take what they have to."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.workers.parameters.cells import PROVIDERS, cells

SCRIPT = Path(__file__).parents[3] / "docs" / "generate.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pages", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_what_the_tables_say() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--check"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_a_page_that_is_out_of_date_is_told(
    script: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(script, "PAGE", tmp_path / "providers.md")
    monkeypatch.setattr(sys, "argv", ["generate.py", "--check"])
    assert script.main() == 1
    assert "out of date" in capsys.readouterr().out


def test_no_provider_supports_less_than_the_public_table_says(script: ModuleType) -> None:
    found = {name: script.supported(PROVIDERS[name]) for name in script.SEED_TICKS}
    assert all(found[name] >= ticks for name, ticks in script.SEED_TICKS.items()), found


def test_the_page_counts_the_cells_that_are_tested(script: ModuleType) -> None:
    counted = {name: script.cells(provider) for name, provider in PROVIDERS.items()}
    tested = [cell.provider.name for cell in cells()]
    assert counted == {name: tested.count(name) for name in PROVIDERS}
    assert f"| all | | | | {len(tested)} |" in script.PAGE.read_text("utf-8")
