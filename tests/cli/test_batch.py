"""`millrace batch`, run as its users run it: files of every kind, interruptions, wrong input."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import pty
import re
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from tests.cli.harness import MILLRACE, Up, clean_environment, millrace, until

ECHO = ("-m", "sim/echo")
_ID = re.compile(r"batch_[0-9a-f]{32}")


@pytest.fixture
def env(running: Up) -> dict[str, str]:
    return running.env


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def prompts(path: Path, count: int) -> Path:
    path.write_text("".join(json.dumps({"prompt": f"say {n}"}) + "\n" for n in range(count)))
    return path


def run(*arguments: object, env: dict[str, str]) -> str:
    """What a command that succeeds says on standard error."""
    result = millrace("batch", "run", *map(str, arguments), env=env)
    assert result.returncode == 0, result.stderr
    return result.stderr


# --- every kind of file ---


def test_rows_come_back_in_their_order_with_their_answers(
    env: dict[str, str], tmp_path: Path
) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text(
        '{"prompt": "one", "group": 1}\n\n"two"\n'
        '{"messages": [{"role": "user", "content": "three"}], "max_tokens": 9}\n'
    )
    said = run(source, *ECHO, env=env)
    assert "in.answers.jsonl: 3 of 3 answered" in said
    assert rows(tmp_path / "in.answers.jsonl") == [
        {"prompt": "one", "group": 1, "answer": "one", "error": None},
        {"prompt": "two", "answer": "two", "error": None},
        {
            "messages": [{"role": "user", "content": "three"}],
            "max_tokens": 9,
            "answer": "three",
            "error": None,
        },
    ]


def test_columns_become_prompts_by_a_template(env: dict[str, str], tmp_path: Path) -> None:
    table = [{"name": "Ann", "town": "Rome"}, {"name": "Bob, Jr.", "town": "Łódź"}]
    with (tmp_path / "in.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["name", "town"])
        writer.writeheader()
        writer.writerows(table)
    parquet.write_table(pa.Table.from_pylist(table), tmp_path / "in.parquet")
    template = ("-t", 'Greet {name} of {town} as {"json": 1}')
    for kind in ("csv", "parquet"):
        output = tmp_path / f"{kind}.out"
        run(tmp_path / f"in.{kind}", *ECHO, *template, "-o", output, env=env)
        answers = [row["answer"] for row in rows(output)]
        assert answers == [
            'Greet Ann of Rome as {"json": 1}',
            'Greet Bob, Jr. of Łódź as {"json": 1}',
        ]


def test_lines_of_a_batch_are_run_as_they_are(env: dict[str, str], tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    url = "/v1/embeddings"
    lines = [
        {"custom_id": name, "method": "POST", "url": url, "body": {"model": model, "input": name}}
        for name, model in (("a", "sim/embed"), ("b", "sim/embed"))
    ]
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    output = tmp_path / "out.jsonl"
    run(source, "-o", output, env=env)
    found = rows(output)
    assert [row["custom_id"] for row in found] == ["a", "b"]
    assert all(row["response"]["body"]["object"] == "list" for row in found)


def test_failed_rows_say_why_and_fail_the_command(env: dict[str, str], tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text('{"prompt": "good"}\n{"messages": [{"role": "nobody"}]}\n')
    output = tmp_path / "out.jsonl"
    result = millrace("batch", "run", str(source), *ECHO, "-o", str(output), env=env)
    assert result.returncode == 1
    assert "1 of 2 answered" in result.stderr
    assert "with --retry" in result.stderr
    good, bad = rows(output)
    assert (good["answer"], good["error"]) == ("good", None)
    assert bad["answer"] is None
    assert "nobody" in bad["error"]["message"]


def test_failed_rows_are_run_again_into_the_same_output(
    env: dict[str, str], tmp_path: Path
) -> None:
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    bodies = [
        {"messages": [{"role": "user", "content": f"say {n}"}], "model": model}
        for n, model in enumerate(
            f"sim/echo,status=400,first_n={n % 3},key={tmp_path.name}{n}" if n % 3 else "sim/echo"
            for n in range(9)
        )
    ]
    source.write_text("".join(json.dumps(body) + "\n" for body in bodies))
    asked = ("batch", "run", str(source), "-o", str(output))
    for answered, retry in ((3, ()), (6, ("--retry",))):
        result = millrace(*asked, *retry, env=env)
        assert result.returncode == 1
        assert "with --retry" in result.stderr
        assert sum(row["answer"] is not None for row in rows(output)) == answered
    result = millrace(*asked, "--retry", env=env)
    assert result.returncode == 0, result.stderr
    assert [row["answer"] for row in rows(output)] == [f"say {n}" for n in range(9)]
    before = millrace("batch", "list", env=env).stdout
    assert "whole already" in run(source, "-o", output, env=env)
    run(source, "-o", output, "--retry", env=env)
    assert millrace("batch", "list", env=env).stdout == before


def test_rows_are_handed_over_where_that_is_asked_for(env: dict[str, str], tmp_path: Path) -> None:
    source = prompts(tmp_path / "in.jsonl", 2)
    result = millrace("batch", "run", str(source), *ECHO, "--execution", "native", env=env)
    assert result.returncode == 1
    errors = [row["error"] for row in rows(tmp_path / "in.answers.jsonl")]
    assert ["no batch API" in str(error) for error in errors] == [True, True]
    run(source, *ECHO, "--execution", "auto", "--again", env=env)


# --- interruptions ---


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_the_same_command_goes_on_where_it_was(
    env: dict[str, str], tmp_path: Path, number: signal.Signals
) -> None:
    source, output = prompts(tmp_path / "in.jsonl", 400), tmp_path / "out.jsonl"
    asked = ("run", source, "-m", "sim/echo,ttft_ms=300", "-o", output)
    command = [MILLRACE, "batch", *map(str, asked)]
    before = millrace("batch", "list", env=env).stdout
    with subprocess.Popen(
        command, env=clean_environment(**env), stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        kept = tmp_path / "out.jsonl.batch"
        until(lambda: kept.exists() and json.loads(kept.read_text())["batch_id"])
        process.send_signal(number)
        said = process.stderr.read()
    if number is signal.SIGINT:
        assert process.returncode == 130
        [batch_id] = set(_ID.findall(said))
        assert f"millrace batch watch {batch_id}" in said
    assert not output.exists()
    assert "400 of 400 answered" in run(*asked[1:], env=env)
    assert [row["answer"] for row in rows(output)] == [f"say {n}" for n in range(400)]
    made = {*_ID.findall(millrace("batch", "list", env=env).stdout)} - {*_ID.findall(before)}
    assert len(made) == 1
    assert "whole already" in run(*asked[1:], env=env)


def test_other_rows_do_not_overwrite_a_run(env: dict[str, str], tmp_path: Path) -> None:
    source, output = prompts(tmp_path / "in.jsonl", 2), tmp_path / "out.jsonl"
    run(source, *ECHO, "-o", output, env=env)
    prompts(source, 3)
    refused = millrace("batch", "run", str(source), *ECHO, "-o", str(output), env=env)
    assert refused.returncode == 1
    assert "--again" in refused.stderr
    assert len(rows(output)) == 2
    run(source, *ECHO, "-o", output, "--again", env=env)
    assert len(rows(output)) == 3
    (tmp_path / "precious").write_text("mine")
    refused = millrace(
        "batch", "run", str(source), *ECHO, "-o", str(tmp_path / "precious"), env=env
    )
    assert refused.returncode == 1
    assert (tmp_path / "precious").read_text() == "mine"


# --- looking after batches ---


def test_a_batch_is_looked_at_paused_cancelled_and_read(
    env: dict[str, str], tmp_path: Path
) -> None:
    source = prompts(tmp_path / "in.jsonl", 3000)
    slow = ("-m", "sim/echo,ttft_ms=1000")
    made = millrace("batch", "run", str(source), *slow, "--detach", env=env)
    batch_id = made.stdout.strip()
    assert _ID.fullmatch(batch_id), made.stderr

    def say(*words: str) -> str:
        result = millrace("batch", *words, env=env)
        assert result.returncode == 0, result.stderr
        return result.stdout

    assert batch_id in say("list")
    assert say("pause", batch_id).split() == [batch_id, "paused"]
    assert "paused" in say("status", batch_id)
    say("resume", batch_id)
    until(lambda: json.loads(say("status", batch_id, "--json"))["request_counts"]["completed"], 30)
    assert say("cancel", batch_id).split()[0] == batch_id
    watched = millrace("batch", "watch", batch_id, env=env)
    assert watched.returncode == 1
    assert "cancelled" in watched.stdout
    output = tmp_path / "results.jsonl"
    say("results", batch_id, "-o", str(output))
    found = rows(output)
    assert [row["custom_id"] for row in found] == [f"row-{n}" for n in range(1, 3001)]
    assert any(row["response"] for row in found)
    assert {row["error"]["code"] for row in found if row["error"]} == {"batch_cancelled"}
    again = _ID.search(say("retry", batch_id))
    assert again
    say("cancel", again[0])  # else later ones of the same owner wait for it


def test_an_estimate_prices_rows_without_running_them(env: dict[str, str], tmp_path: Path) -> None:
    source = prompts(tmp_path / "in.jsonl", 100)
    asked = ("estimate", str(source), "-m", "openai/gpt-4o", "-p", "max_tokens=50")
    said = millrace("batch", *asked, env=env).stdout
    assert re.search(r"^lines +100$", said, re.MULTILINE)
    assert re.search(r"^output tokens +at most 5,000$", said, re.MULTILINE)
    low, high = re.findall(r"\$([0-9.]+)", said)
    # 5,000 tokens at 10 USD a million.
    assert float(high) - float(low) == pytest.approx(0.05)
    assert "time            not known" in said
    twice = tmp_path / "twice.jsonl"
    twice.write_text('"say it"\n' * 4)
    once = ("estimate", str(twice), *asked[2:], "--window", "10m", "--dedupe")
    said = millrace("batch", *once, env=env).stdout
    assert re.search(r"^asked twice +3$", said, re.MULTILINE)
    assert re.search(r"^output tokens +at most 50$", said, re.MULTILINE)
    slow = ("-m", "sim/tokens=5,ttft_ms=50,key=estimated")
    run(source, *slow, "-o", tmp_path / "out.jsonl", env=env)

    def timed() -> bool:
        said = millrace("batch", "estimate", str(source), *slow, env=env).stdout
        return bool(re.search(r"^time +~\d+ s at the present pace", said, re.MULTILINE))

    until(timed, 15)  # workers tell their pace every few seconds


def test_an_estimate_names_mistakes_by_the_rows_of_the_file(
    env: dict[str, str], tmp_path: Path
) -> None:
    source = tmp_path / "in.csv"
    source.write_text('id,prompt\nsame,"two\nlines"\n' + "same,b\n" * 20)
    result = millrace("batch", "estimate", str(source), *ECHO, env=env)
    assert result.returncode == 1
    told = result.stderr.splitlines()
    assert told[0].startswith("  row 4: ")
    assert told[10:] == [
        "  and 10 more",
        f"millrace: {source} would be refused for 20 mistakes",
    ]


def test_on_a_terminal_there_is_a_bar(env: dict[str, str], tmp_path: Path) -> None:
    source = prompts(tmp_path / "in.jsonl", 40)
    ours, theirs = pty.openpty()
    command = [MILLRACE, "batch", "run", str(source), "-m", "sim/ttft_ms=200,tokens=3"]
    environment = clean_environment(**env, TERM="xterm", COLUMNS="120")
    process = subprocess.Popen(command, env=environment, stderr=theirs)
    late = threading.Timer(40, process.kill)
    late.start()
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # nobody writes to it any more
        while some := os.read(ours, 65536):
            shown += some
    os.close(ours)
    late.cancel()
    text = shown.decode()
    assert process.wait() == 0, text
    for part in ("━", "100%", "40/40"):
        assert part in text, text


# --- wrong input ---

WRONG = {
    "no file": (None, ECHO, "there is no file"),
    "no rows": ("", ECHO, "has no rows"),
    "no JSON": ('{"prompt": "a"}\n{\n', ECHO, "line 2: not JSON"),
    "no object": ("[1]\n", ECHO, "line 1: neither an object nor a text"),
    "no prompt": ('{"text": "a"}\n', ECHO, "--template"),
    "no model": ('"a"\n', (), "--model"),
    "no column": ('{"a": 1}\n', (*ECHO, "-t", "{b}"), "no field 'b'; it has: a"),
    "no window": ('"a"\n', (*ECHO, "--window", "1m"), "'10m' to '14d'"),
    "no parameter": ('"a"\n', (*ECHO, "-p", "x"), "NAME=VALUE"),
    "no endpoint": ('"a"\n', (*ECHO, "--endpoint", "/v1/x"), "endpoint"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_is_one_line_that_says_what_to_change(
    env: dict[str, str], tmp_path: Path, name: str
) -> None:
    text, more, told = WRONG[name]
    source = tmp_path / "in.jsonl"
    if text is not None:
        source.write_text(text)
    result = millrace("batch", "run", str(source), *more, env=env)
    assert result.returncode == 1
    [line] = [line for line in result.stderr.splitlines() if line.startswith("millrace: ")]
    assert told in line
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "in.answers.jsonl").exists()


@pytest.mark.parametrize("command", ["status", "watch", "results", "cancel", "pause", "retry"])
def test_a_batch_that_is_not_there_is_one_line(env: dict[str, str], command: str) -> None:
    result = millrace("batch", command, "batch_0", env=env)
    assert result.returncode == 1
    assert "No batch found with id 'batch_0'" in result.stderr
