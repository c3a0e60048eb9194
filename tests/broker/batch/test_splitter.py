"""Lines of bytes that come in pieces."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from broker.batch.splitter import Splitter


def split(pieces: list[bytes]) -> list[bytes]:
    splitter = Splitter()
    lines = [line for piece in pieces for line in splitter.feed(piece)]
    last = splitter.last()
    assert splitter.size == 0
    return [*lines, last] if last else lines


@given(st.lists(st.sampled_from([b"", b"a", b"bc", b"\n", b"\r\n", b"d\ne", b"\n\n"]), max_size=20))
def test_lines_are_the_same_however_their_bytes_come(pieces: list[bytes]) -> None:
    assert split(pieces) == b"".join(pieces).splitlines(keepends=True)


def test_the_size_is_that_of_the_line_that_has_begun() -> None:
    splitter = Splitter()
    sizes = []
    for piece in (b"ab", b"c", b"d\nef", b"g", b"\n"):
        list(splitter.feed(piece))
        sizes.append(splitter.size)
    assert sizes == [2, 3, 2, 3, 0]
