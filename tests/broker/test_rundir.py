"""The run folder: what other processes find there, and who may use it."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from broker.rundir import RunFolder, RunFolderError


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "data")


def test_one_supervisor_at_a_time_uses_a_folder_and_the_other_is_named(folder: RunFolder) -> None:
    folder.open()
    assert folder.locked()
    with pytest.raises(RunFolderError) as caught:
        RunFolder(folder.data).open()
    assert f"is in use by process {os.getpid()};" in str(caught.value)
    assert "MILLRACE_DATA" in str(caught.value)
    folder.close()
    assert not folder.locked()
    other = RunFolder(folder.data)
    other.open()
    other.close()


def test_a_killed_supervisor_leaves_no_lock_behind(folder: RunFolder) -> None:
    code = (
        "import sys, time, pathlib; from broker.rundir import RunFolder; "
        "f = RunFolder(pathlib.Path(sys.argv[1])); f.open(); print('open', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(folder.data)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert folder.locked()
        process.kill()
    assert not folder.locked()
    folder.open()
    folder.close()


def test_a_folder_that_cannot_be_made_is_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError) as caught:
        RunFolder(tmp_path / "file" / "data").open()
    assert "MILLRACE_DATA" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_was_never_written_is_none_or_empty(folder: RunFolder) -> None:
    assert (folder.api_key(), folder.nats_url(), folder.processes()) == (None, None, [])
    assert not folder.locked()


def test_what_is_written_is_found_by_others(folder: RunFolder) -> None:
    folder.open()
    children = [{"role": "edge", "name": "edge", "pid": 7}]
    folder.write_api_key("mr-1")
    folder.write_nats_url("nats://u:p@h:1")
    folder.write_processes(children)
    reader = RunFolder(folder.data)
    assert (reader.api_key(), reader.nats_url()) == ("mr-1", "nats://u:p@h:1")
    assert reader.processes() == children
    assert json.loads((folder.data / "run" / "processes.json").read_text()) == children
    folder.close()


def test_the_end_leaves_the_key_and_nothing_that_seems_to_run(folder: RunFolder) -> None:
    folder.open()
    folder.write_api_key("mr-1")
    folder.write_nats_url("nats://h:1")
    folder.write_processes([{"role": "edge", "name": "edge", "pid": 7}])
    folder.close()
    assert (folder.api_key(), folder.nats_url(), folder.processes()) == ("mr-1", None, [])


def test_secrets_are_readable_by_their_owner_alone(folder: RunFolder) -> None:
    folder.open()
    folder.write_api_key("mr-1")
    folder.write_nats_url("nats://u:p@h:1")
    folder.write_nats_url("nats://u:p@h:2")
    for name in ("api_key", "nats.url"):
        assert stat.S_IMODE((folder.path / name).stat().st_mode) == 0o600, name
    assert sorted(f.name for f in folder.path.iterdir()) == ["api_key", "lock", "nats.url"]
    folder.close()
