"""The README's commands are run and its tables are compared with the code they speak of."""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import httpx
import pytest

from broker.errors import REFUSALS, TABLE
from broker.settings import Limits, LogSettings, NatsSettings, Settings
from tests.cli.harness import Up, clean_environment
from tests.examples.conftest import ROOT

README = (ROOT / "README.md").read_text()


def section(title: str) -> str:
    """The text below a heading, up to the next one."""
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", README, re.MULTILINE | re.DOTALL)
    assert found, title
    return found[1]


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def rows(text: str) -> list[list[str]]:
    """The cells of the tables in a text, without their heads."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [
        row
        for row, after in zip(cells, [*cells[1:], ["x"]], strict=True)
        if not (row[0].startswith("---") or after[0].startswith("---"))
    ]


def names(cell: str) -> list[str]:
    """What stands between backticks."""
    return re.findall(r"`([^`]+)`", cell)


def shell(command: str, up: Up) -> str:
    """What a command of the README prints, run where `make run` ran."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = clean_environment(MILLRACE_HTTP=up.http, MILLRACE_GRPC=up.grpc, PATH=path)
    command = command.replace("127.0.0.1:8000", up.http).replace("127.0.0.1:8001", up.grpc)
    result = subprocess.run(
        ["sh", "-c", command],
        cwd=up.data.parent,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, f"{command}\n{result.stdout}"
    return result.stdout


def test_the_two_commands_come_first() -> None:
    first = blocks(README, "sh")[0]
    assert README.startswith(f"```sh\n{first}")
    assert [line.split()[:2] for line in first.splitlines()] == [["make", "run"], ["make", "test"]]


def test_the_curl_line_streams_an_answer(up: Up) -> None:
    (command,) = blocks(section("First answer"), "sh")
    assert command.startswith("curl -N ")
    out = shell(command, up)
    assert out.count("data: {") > 5
    assert "\ndata: [DONE]\n" in out


def console() -> list[tuple[str, str]]:
    """Every command of the command line's section, and what it is said to print."""
    (session,) = blocks(section("Command line"), "console")
    return re.findall(r"^\$ (.+)\n((?:(?!\$ ).*\n)*)", session, re.MULTILINE)


def test_every_command_prints_what_the_readme_shows(up: Up) -> None:
    commands = console()
    assert {command.split()[1] for command, _ in commands} >= {"chat", "models", "key", "doctor"}
    checker = doctest.OutputChecker()
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    for command, shown in commands:
        wanted = shown.replace("127.0.0.1:8000", up.http).replace("127.0.0.1:8001", up.grpc)
        found = shell(command, up)
        assert checker.check_output(wanted, found, options), f"$ {command}\n{found}"


def test_every_command_of_the_table_exists(up: Up) -> None:
    said = [words for row in rows(section("Command line")) for words in names(row[0])]
    helps = ("", "batch", "files", "key", "key provider-key", "config")
    offered = shell("; ".join(f"millrace {words} --help" for words in helps), up)
    for words in said:
        for word in words.removeprefix("millrace ").split():
            if word.islower():
                assert re.search(rf"│ {word} ", offered), word


def test_every_variable_is_one_that_is_read() -> None:
    known = {field.name for cls in (Settings, Limits) for field in fields(cls)}
    known |= {f"nats_{field.name}" for field in fields(NatsSettings)}
    known |= {f"log_{field.name}" for field in fields(LogSettings)}
    said = set(re.findall(r"\bMILLRACE_(\w+)", README))
    assert said <= {name.upper() for name in known}
    assert said >= {"API_KEY", "DATA", "HTTP", "GRPC", "CONFIG", "NATS", "ADVERTISE"}


def test_defaults_are_those_of_the_settings() -> None:
    shown = {name: row[3] for row in rows(section("Settings")) for name in names(row[0])}
    settings = Settings()
    assert names(shown["MILLRACE_HTTP"]) == [str(settings.http)]
    assert names(shown["MILLRACE_GRPC"]) == [str(settings.grpc)]
    assert names(shown["MILLRACE_DATA"]) == [f"./{settings.data}"]
    assert names(shown["MILLRACE_LOG_LEVEL"]) == [settings.log.level, settings.log.format]
    assert not settings.sync_always
    assert "`sync_always: false`, the default" in README


def test_limits_are_those_of_the_settings() -> None:
    shown = [row[1] for row in rows(section("Limits"))]
    limits = Limits()
    assert limits.share_per_key == 0.8
    assert shown[:14] == [
        f"{limits.max_body_bytes >> 20} MiB",
        f"{limits.max_header_bytes >> 10} KiB",
        f"{limits.streams_per_key:,}",
        f"{limits.queue_size:,}",
        f"{limits.held_bytes >> 30} GiB",
        f"{limits.request_timeout_s:g} s",
        f"{limits.first_token_timeout_s:g} s",
        f"{limits.last_first_token_timeout_s:g} s",
        f"{limits.reasoning_first_token_timeout_s:g} s",
        f"{limits.whole_timeout_s:g} s",
        f"{limits.reasoning_whole_timeout_s:g} s",
        f"{limits.stall_timeout_s:g} s",
        f"{limits.reasoning_stall_timeout_s:g} s",
        f"{limits.slow_reader_s:g} s",
    ]


def test_errors_are_those_of_the_table() -> None:
    shown = rows(section("Errors"))
    assert all(f"`{code}`" in section("Errors") for code in REFUSALS.values())
    assert len(shown) > 10
    for reason, http, grpc, code, _ in shown:
        row = TABLE[reason.strip("`")]
        assert (http, grpc, code.strip("`") or None) == (str(row.http), row.grpc, row.code), reason


def test_every_metric_is_shown_by_a_running_edge(up: Up) -> None:
    shown = httpx.get(f"http://{up.http}/metrics").text
    said = [name for name in names(section("Metrics and logs")) if name.startswith("millrace_")]
    assert len(said) > 8
    for name in said:
        assert f"# HELP {name} " in shown, name


def test_a_wrong_setting_is_named_as_the_readme_says(tmp_path: Path) -> None:
    (said,) = (name for name in names(section("Settings")) if name.startswith("limits."))
    (tmp_path / "millrace.yaml").write_text("limits: {queue_size: many}\n")
    result = subprocess.run(
        [Path(sys.executable).parent / "millrace", "config", "check"],
        cwd=tmp_path,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert result.returncode == 1
    assert result.stderr == f"millrace: {said}\n"


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_every_test_that_is_named_exists(document: str) -> None:
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    said = re.findall(r"`(test_\w+)`", (ROOT / document).read_text())
    assert len(said) >= 5
    for name in said:
        assert re.search(rf"def {name}\b", tests), name


def test_every_rule_has_its_place() -> None:
    contributing = (ROOT / "CONTRIBUTING.md").read_text()
    assert re.findall(r"^\| R(\d+) ", contributing, re.MULTILINE) == [str(n) for n in range(1, 21)]


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "examples/README.md"])
def test_every_path_and_link_leads_somewhere(document: str) -> None:
    text = (ROOT / document).read_text()
    anchors = {
        re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")
        for title in re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    }
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith("#"):
            assert target[1:] in anchors, target
        elif "://" not in target:
            assert (ROOT / document).parent.joinpath(target).exists(), target
    code = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    for path in re.findall(
        r"`((?:broker|edge|workers|tests|bench|deploy|protos|examples)/[^` ]*)`", code
    ):
        made_up = re.search(r"[*<{]|acme|bench/results", path)
        if not made_up:
            assert (ROOT / path).exists(), path
