"""Chunks: nothing is left out, and whoever reads on from a boundary finds the same ones."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from broker.batch.chunks import BYTES, LINES, Chunk, Cursor

LINE = st.one_of(
    st.binary(max_size=20).map(lambda data: data.replace(b"\n", b"")),
    st.sampled_from([b"", b"  ", b"\r", b"x" * (BYTES // 3)]),
)
INPUT = st.builds(
    lambda lines, end: b"\n".join(lines) + end,
    st.lists(LINE, max_size=3 * LINES),
    st.sampled_from([b"", b"\n"]),
)


def cut(data: bytes, step: int, offset: int = 0, number: int = 1) -> list[Chunk]:
    cursor = Cursor(offset, number)
    found = []
    while True:
        at = cursor.wants
        chunk = cursor.take(last=at >= len(data))
        if chunk is not None:
            found.append(chunk)
        elif at >= len(data):
            return found
        else:
            cursor.feed(data[at : at + step])


@given(INPUT, st.sampled_from([1 << 12, 100_003, 1 << 22]))
def test_every_line_is_in_one_chunk_with_its_place(data: bytes, step: int) -> None:
    chunks = cut(data, step)
    found = {raw.number: raw for chunk in chunks for raw in chunk.lines}
    for number, line in enumerate(data.split(b"\n"), 1):
        if line.strip():
            raw = found.pop(number)
            assert raw.data.removesuffix(b"\n") == line
            assert data[raw.offset :].startswith(raw.data)
    assert not found
    for before, after in zip([None, *chunks], chunks, strict=False):
        assert after.begin == (before.end if before else 0)
        assert after.number == (before.next_number if before else 1)
        assert len(after.lines) <= LINES


@given(INPUT, st.data())
def test_the_same_chunks_are_found_from_any_boundary(data: bytes, draw: st.DataObject) -> None:
    chunks = cut(data, 1 << 20)
    if not chunks:
        return
    place = draw.draw(st.integers(0, len(chunks) - 1))
    start = chunks[place]
    assert cut(data, 1 << 14, start.begin, start.number) == chunks[place:]
