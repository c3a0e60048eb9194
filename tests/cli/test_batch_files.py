"""What becomes of the rows of a file before they are a batch, and of its bytes on their way."""

from __future__ import annotations

import io
import json
import tempfile
from pathlib import Path
from typing import Any

import httpx
import pytest

from broker.cli import files
from broker.cli.batch import answers, calls
from broker.cli.batch.calls import Calls
from broker.cli.batch.lines import Wish
from broker.cli.batch.rows import InputError
from broker.cli.batch.run import Job, Prepared, prepare

MODEL = Wish(model="m")


def prepared(source: Path, rows: list[Any], wish: Wish = MODEL) -> tuple[Prepared, bytes]:
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with tempfile.TemporaryFile() as content:
        made = prepare(Job(source, source, wish), content)
        content.seek(0)
        return made, content.read()


def test_lines_of_a_batch_go_to_the_server_as_they_are(tmp_path: Path) -> None:
    line = {"custom_id": "a", "method": "POST", "url": "/v1/embeddings", "body": {"model": "m"}}
    rows = [
        line,
        {**line, "url": "/v1/responses", "custom_id": 7, "more": [1]},
        {**line, "method": "GET"},
        {"custom_id": "a", "answer": "none"},
    ]
    made, content = prepared(tmp_path / "in.jsonl", rows, Wish())
    assert (made.endpoint, made.lines) == ("/v1/embeddings", True)
    assert [json.loads(row) for row in content.splitlines()] == rows


@pytest.mark.parametrize("wish", [MODEL, Wish(params={"n": 1}), Wish(system="Say")])
def test_what_cannot_go_into_lines_of_a_batch_is_refused(tmp_path: Path, wish: Wish) -> None:
    line = {"custom_id": "a", "method": "POST", "url": "/v1/embeddings", "body": {"model": "m"}}
    with pytest.raises(InputError, match="run as it is"):
        prepared(tmp_path / "in.jsonl", [line], wish)
    with pytest.raises(InputError, match="row 2 is a line of a batch, and the first row is none"):
        prepared(tmp_path / "in.jsonl", ["a prompt", line])


@pytest.mark.parametrize("name", ["answer", "error"])
def test_a_field_that_its_answer_would_replace_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=f"row 2 has a field '{name}'"):
        prepared(tmp_path / "in.jsonl", [{"prompt": "a"}, {"prompt": "b", name: "mine"}])


def test_a_large_file_goes_in_parts_and_each_is_sent_until_it_came(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(calls, "MOST_BYTES", 25)
    monkeypatch.setattr(calls, "_PAUSE_S", 0)
    monkeypatch.setattr(files, "MOST_PART_BYTES", 10)
    data = bytes(range(65, 91))
    parts: list[bytes] = []
    away = iter([True, False] * 20)

    def answer(request: httpx.Request) -> httpx.Response:
        if next(away):
            return httpx.Response(503)
        path, body = request.url.path, request.read()
        if path == "/v1/uploads":
            asked = json.loads(body)
            assert (asked["bytes"], asked["purpose"]) == (26, "batch")
            return httpx.Response(200, json={"id": "upload_1"})
        if path == "/v1/uploads/upload_1/parts":
            parts.append(body.split(b"\r\n\r\n")[1].split(b"\r\n")[0])
            return httpx.Response(200, json={"id": f"part_{len(parts)}"})
        assert path == "/v1/uploads/upload_1/complete"
        assert json.loads(body) == {"part_ids": ["part_1", "part_2", "part_3"]}
        return httpx.Response(200, json={"file": {"id": "file-1"}})

    with httpx.Client(transport=httpx.MockTransport(answer), base_url="http://edge") as http:
        assert Calls(http, lambda _: None).upload(io.BytesIO(data), "a.jsonl") == "file-1"
    assert parts == [data[:10], data[10:20], data[20:]]


def _rows(names: str, text: str) -> list[bytes]:
    return [json.dumps({"custom_id": name, "text": text}).encode() for name in names]


@pytest.mark.parametrize(
    ("first", "again", "merged"),
    [
        ("abcd", "bd", "a1 b2 c1 d2"),
        ("abcd", "a", "a2 b1 c1 d1"),
        ("abcd", "", "a1 b1 c1 d1"),
        ("", "abcd", "a2 b2 c2 d2"),
    ],
)
def test_rows_that_ran_again_are_in_their_places(first: str, again: str, merged: str) -> None:
    found = map(json.loads, answers.merged(_rows(first, "1"), _rows(again, "2")))
    assert " ".join(row["custom_id"] + row["text"] for row in found) == merged
