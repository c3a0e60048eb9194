"""What becomes of the rows of a file before they are a batch, and of its bytes on their way."""

from __future__ import annotations

import datetime as dt
import decimal
import io
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest
import typer
from pyarrow import parquet

from broker.cli import files
from broker.cli.batch import answers, calls
from broker.cli.batch.calls import Calls
from broker.cli.batch.lines import Wish, fill
from broker.cli.batch.rows import InputError, Row, encoded
from broker.cli.batch.run import Job, Prepared, finish, prepare

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


def test_columns_that_json_has_no_word_for_become_text(tmp_path: Path) -> None:
    columns = {
        "day": dt.date(2026, 11, 21),
        "at": dt.datetime(2026, 11, 21, 7, 30, tzinfo=dt.UTC),
        "price": decimal.Decimal("1.50"),
        "note": None,
    }
    source = tmp_path / "in.parquet"
    parquet.write_table(pa.Table.from_pylist([columns]), source)
    with tempfile.TemporaryFile() as content:
        wish = Wish(model="m", template="{day} {at} {price} {note}")
        prepare(Job(source, source, wish), content)
        content.seek(0)
        line = json.loads(content.read())
    said = line["body"]["messages"][0]["content"]
    assert said == "2026-11-21 2026-11-21 07:30:00+00:00 1.50 null"


@pytest.mark.parametrize(
    ("value", "told"),
    [(b"\xff", "a value of type bytes"), (float("nan"), "NaN"), ("\ud800", "lone surrogate")],
)
def test_what_is_no_json_is_named_by_its_row(tmp_path: Path, value: object, told: str) -> None:
    row = Row(3, {"prompt": "a", "x": value})
    with pytest.raises(InputError, match=f"row 3 has .*{told}"):
        encoded(row, row.fields)
    with pytest.raises(InputError, match=f"row 3 has .*{told}"):
        encoded(row, fill("{x}", row))


def test_a_document_in_a_column_is_read(tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    source.write_text("prompt\n" + "x" * 200_000 + "\n")
    with tempfile.TemporaryFile() as content:
        assert prepare(Job(source, source, MODEL), content).count == 1


def test_mistakes_are_told_by_the_rows_of_the_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "in.csv"
    source.write_text('prompt\n"two\nlines"\nb\n\n' + "c\n" * 20)
    mistake = {"code": "invalid_request", "message": "no"}
    errors = [{**mistake, "line": line} for line in range(1, 23)] + [mistake]
    batch = {"id": "batch_1", "status": "failed", "errors": {"data": errors}}
    batch["request_counts"] = {"total": 0, "completed": 0, "failed": 0}
    with pytest.raises(typer.Exit):
        finish(batch, Job(source, source, MODEL))
    told = capsys.readouterr().err.splitlines()
    assert told[:3] == [f"  row {n}: no (invalid_request)" for n in (3, 4, 6)]
    assert told[10] == "  and 13 more"
    errors.append({"code": "more_errors", "message": "There are more."})
    with pytest.raises(typer.Exit):
        finish(batch, Job(source, source, MODEL))
    assert "  and more than 13 more" in capsys.readouterr().err.splitlines()


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


def test_a_download_that_breaks_off_goes_on_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "_PAUSE_S", 0)
    rows = [b'{"id":"batch_req_ab_%d","custom_id":"%d"}\n' % (n, n) for n in range(1, 8)]
    asked: list[int] = []
    said: list[str] = []

    class Broken(httpx.SyncByteStream):
        def __init__(self, left: list[bytes]) -> None:
            self.left = left

        def __iter__(self) -> Iterator[bytes]:
            yield b"".join(self.left[:2]) + self.left[2][:9]
            raise httpx.RemoteProtocolError("cut")

    def answer(request: httpx.Request) -> httpx.Response:
        after = int(request.url.params["after"])
        asked.append(after)
        if len(asked) == 2:
            return httpx.Response(503)
        left = rows[after:]
        return httpx.Response(200, stream=Broken(left)) if len(left) > 2 else _whole(left)

    with httpx.Client(transport=httpx.MockTransport(answer), base_url="http://edge") as http:
        assert list(Calls(http, said.append).results("batch_1")) == rows
    assert asked == [0, 2, 2, 4, 6]
    assert said == ["cut", "status 503", "", "cut", "", "cut", ""]


def _whole(rows: list[bytes]) -> httpx.Response:
    return httpx.Response(200, content=b"".join(rows))


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
