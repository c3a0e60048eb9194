"""Rows of files: one line of JSON each, whatever is in an answer, and in the API's shape."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.batch import names, projection
from broker.batch.states import BATCH_CANCELLED, BATCH_EXPIRED
from broker.v1 import batch_pb2, event_pb2

BATCH = names.new_id(1_700_000_000_000, bytes(10))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(JSON, st.text(), st.booleans())
def test_a_row_is_one_line_with_the_answer_as_it_was(
    body: object, custom_id: str, indented: bool
) -> None:
    made = batch_pb2.LineResult(
        number=7,
        custom_id=custom_id.encode(errors="replace").decode(),
        status=200,
        request_id="r",
        json=json.dumps(body, indent=2 if indented else None).encode(),
    )
    row = projection.row(BATCH, made)
    assert projection.number_of(row) == 7
    assert row.endswith(b"\n")
    assert row.count(b"\n") == 1
    read = msgspec.json.decode(row)
    assert list(read) == ["id", "custom_id", "response", "error"]
    assert read["custom_id"] == made.custom_id
    assert read["id"].startswith("batch_req_")
    assert read["response"] == {"status_code": 200, "request_id": "r", "body": body}
    assert read["error"] is None


@pytest.mark.parametrize("code", [BATCH_CANCELLED, BATCH_EXPIRED])
def test_a_line_that_ended_with_its_batch_has_no_response(code: str) -> None:
    made = projection.ended(3, "c", code)
    read = json.loads(projection.row(BATCH, made))
    assert read["response"] is None
    assert read["error"]["code"] == code
    assert read["error"]["message"]
    assert projection.stopped(made)
    assert not projection.answered(made)


def test_a_failure_over_http_is_a_response_and_no_error() -> None:
    made = batch_pb2.LineResult(number=1, custom_id="c", status=429, json=b'{"error":{}}')
    read = json.loads(projection.row(BATCH, made))
    assert (read["response"]["status_code"], read["error"]) == (429, None)
    assert not projection.answered(made)
    assert not projection.stopped(made)


def test_a_copy_has_the_answer_but_none_of_what_it_cost() -> None:
    first = batch_pb2.LineResult(number=1, custom_id="a", status=200, json=b"{}", attempt=1)
    first.usage.CopyFrom(event_pb2.Usage(output_tokens=3))
    first.cost.nano_usd = 5
    made = projection.copy(first, 2, "b")
    assert (made.number, made.custom_id, made.json, made.attempt) == (2, "b", b"{}", 0)
    assert not made.HasField("usage")
    assert not made.HasField("cost")


def test_ids_of_batches_and_of_their_files_are_in_order_and_never_the_same() -> None:
    later = names.new_id(1_700_000_000_001, bytes(10))
    assert names.is_id(BATCH)
    assert later > BATCH
    made = {names.output_file(BATCH), names.error_file(BATCH), names.retry_file(BATCH)}
    assert len(made) == 3
    assert all(len(name) == len("file-") + 32 for name in made)
