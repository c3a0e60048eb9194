from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.errors import InferenceError
from workers.framing import SseEvent, SseFramer


def _frame(data: bytes, sizes: list[int] | None = None) -> list[SseEvent]:
    """All events, fed in pieces of the given sizes in turn (whole without sizes)."""
    framer = SseFramer()
    events: list[SseEvent] = []
    start = turn = 0
    while start < len(data):
        size = sizes[turn % len(sizes)] if sizes else len(data)
        events += framer.feed(data[start : start + size])
        start += size
        turn += 1
    return [*events, *framer.close()]


CASES = [
    pytest.param(b"data: a\n\n", [(b"", b"a")], id="one event"),
    pytest.param(b"data:a\n\n", [(b"", b"a")], id="the space after the colon is optional"),
    pytest.param(b"data:  a\n\n", [(b"", b" a")], id="only one space belongs to the colon"),
    pytest.param(b"event: x\ndata: a\n\n", [(b"x", b"a")], id="a name"),
    pytest.param(b"data: a\nevent: x\n\n", [(b"x", b"a")], id="a name behind the data"),
    pytest.param(b"data: a\ndata: b\n\n", [(b"", b"a\nb")], id="lines are joined"),
    pytest.param(b"data: a\n\ndata: b\n\n", [(b"", b"a"), (b"", b"b")], id="two events"),
    pytest.param(b": ping\n\ndata: a\n\n", [(b"", b"a")], id="a comment is no event"),
    pytest.param(b": ping\ndata: a\n\n", [(b"", b"a")], id="a comment before data"),
    pytest.param(b"event: ping\n\ndata: a\n\n", [(b"", b"a")], id="a name alone is no event"),
    pytest.param(b"id: 7\nretry: 10\ndata: a\n\n", [(b"", b"a")], id="id and retry are skipped"),
    pytest.param(b"\n\n\ndata: a\n\n\n\n", [(b"", b"a")], id="blank lines around"),
    pytest.param(b"\ndata: a\n\n", [(b"", b"a")], id="one blank line before"),
    pytest.param(b"\xef\xbb\xbfdata: a\n\n", [(b"", b"a")], id="a byte order mark"),
    pytest.param(b"data: a", [(b"", b"a")], id="the last event needs no blank line"),
    pytest.param(b"data: a\n", [(b"", b"a")], id="the last event with one line end"),
    pytest.param(b"data: a\n\ndata: b", [(b"", b"a"), (b"", b"b")], id="the last of two"),
    pytest.param(b"data\ndata: a\n\n", [(b"", b"\na")], id="a field without a colon is empty"),
    pytest.param(b"data: \n\ndata: b\n\ndata:\n\n", [(b"", b"b")], id="no event without data"),
    pytest.param(b"event: ping\ndata: \n\n", [], id="no named event without data"),
    pytest.param(b"data: \xc3\xa4\n\n", [(b"", b"\xc3\xa4")], id="bytes stay bytes"),
    pytest.param(b"dataset: a\n\ndata: b\n\n", [(b"", b"b")], id="unknown fields are skipped"),
    pytest.param(b"data: a: b\n\n", [(b"", b"a: b")], id="only the first colon counts"),
    pytest.param(b"", [], id="nothing"),
    pytest.param(b"\n\n", [], id="only blank lines"),
]


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"], ids=["lf", "crlf", "cr"])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 4096])
@pytest.mark.parametrize(("data", "events"), CASES)
def test_events_are_the_same_for_every_line_end_and_piece_size(
    data: bytes, events: list[SseEvent], size: int, line_end: bytes
) -> None:
    assert _frame(data.replace(b"\n", line_end), [size]) == events


@given(
    st.lists(st.sampled_from([b"data: a", b"event: e", b": c", b"", b"data:", b"\xef\xbb\xbf"])),
    st.lists(st.sampled_from([b"\n", b"\r\n", b"\r"]), min_size=1),
    st.lists(st.integers(1, 9), min_size=1),
)
def test_how_a_stream_is_cut_never_changes_its_events(
    lines: list[bytes], line_ends: list[bytes], sizes: list[int]
) -> None:
    data = b"".join(line + line_ends[i % len(line_ends)] for i, line in enumerate(lines))
    assert _frame(data, sizes) == _frame(data) == _frame(data, [1])


def test_an_event_comes_out_with_the_byte_that_completes_it() -> None:
    framer = SseFramer()
    assert list(framer.feed(b"data: a\n")) == []
    assert list(framer.feed(b"\n")) == [(b"", b"a")]
    # With CRLF the blank line is complete at its CR.
    assert list(framer.feed(b"data: b\r\n\r")) == [(b"", b"b")]
    assert list(framer.feed(b"\ndata: c\n\n")) == [(b"", b"c")]


@pytest.mark.parametrize("size", [7, 1460, 65536])
def test_a_two_megabyte_event_costs_no_more_than_its_length(size: int) -> None:
    data = b"data: " + b"x" * (2 << 20) + b"\n\n"
    begin = time.process_time()
    events = _frame(data, [size])
    assert [len(payload) for _, payload in events] == [2 << 20]
    # 0.3 s at 7 bytes a piece; rescanning or copying what is buffered takes minutes.
    assert time.process_time() - begin < 5


@pytest.mark.parametrize("end", [b"", b"\n\n"], ids=["unfinished", "whole"])
@pytest.mark.parametrize("size", [1, 4096])
def test_an_event_over_the_limit_is_an_error(size: int, end: bytes) -> None:
    data = b"data: " + b"x" * 2000 + end
    framer = SseFramer(limit=1000)
    with pytest.raises(InferenceError) as caught:
        for start in range(0, len(data), size):
            list(framer.feed(data[start : start + size]))
    assert caught.value.reason == "upstream_error"
    assert "1000 bytes" in caught.value.message


def test_the_limit_is_for_one_event_and_not_for_the_stream() -> None:
    framer = SseFramer(limit=100)
    events = [event for _ in range(50) for event in framer.feed(b"data: " + b"x" * 50 + b"\n\n")]
    assert len(events) == 50


def test_close_is_empty_after_a_whole_stream_and_when_called_again() -> None:
    framer = SseFramer()
    list(framer.feed(b"data: a\n\ndata: b"))
    assert list(framer.close()) == [(b"", b"b")]
    assert list(framer.close()) == []
