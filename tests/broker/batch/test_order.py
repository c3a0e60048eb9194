"""The order in which lines are published: those that share a prompt's beginning go together."""

from __future__ import annotations

import itertools
import json

import pytest

from broker.batch import lines
from broker.batch.chunks import LINES, STRETCH, Chunk, Cursor, Raw, cut, ordered


def order(prefixes: list[str]) -> list[int]:
    given = [(Raw(n, 0, b""), prefix.encode()) for n, prefix in enumerate(prefixes)]
    return [raw.number for raw in ordered(given)]


def test_lines_that_share_a_beginning_go_together_however_far_apart_they_are() -> None:
    groups = [str(n % 100) for n in range(4000)]
    found = order(groups)
    assert sorted(found) == list(range(4000))
    # But for the first of a group, which goes ahead, one group ends before the next begins.
    changes = sum(groups[a] != groups[b] for a, b in itertools.pairwise(found))
    assert changes <= 3 * 100


def test_the_first_line_of_a_group_goes_ahead_of_the_others_so_that_they_find_a_warm_cache() -> (
    None
):
    found = order(["a", "b", "x", "a", "y", "b", "a", "b", "z"])
    assert found == [0, 2, 4, 8, 1, 3, 6, 5, 7]


def test_lines_that_share_nothing_stay_in_their_order() -> None:
    assert order([""] * 10) == list(range(10))
    assert order([str(n) for n in range(10)]) == list(range(10))


def test_a_stretch_is_cut_alike_by_whoever_reads_it_from_any_of_its_chunks() -> None:
    data = b"".join(b"%d\n" % n for n in range(200))
    cursor = Cursor(1000, 7)
    cursor.feed(data)
    stretch = cursor.take(last=True, size=STRETCH)
    assert stretch is not None
    backwards = list(reversed(stretch.lines))
    parts = cut(stretch, backwards)
    assert [len(part.lines) for part in parts] == [LINES, LINES, LINES, 200 - 3 * LINES]
    assert [raw for part in parts for raw in part.lines] == backwards
    assert [part.place for part in parts] == [(1000, 7, n) for n in range(4)]
    after = [part.after for part in parts]
    assert after == [*(part.place for part in parts[1:]), (1000 + len(data), 207, 0)]


def test_a_stretch_without_lines_is_a_chunk_all_the_same() -> None:
    (part,) = cut(Chunk((), 0, 1, 5, 6), ())
    assert part.after == (5, 6, 0)


def of(body: object) -> bytes:
    return lines.prompt_prefix(json.dumps({"custom_id": "a", "body": body}).encode() + b"\n")


SYSTEM = {"role": "system", "content": "be brief"}


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ({"messages": [SYSTEM, {"content": "1"}]}, {"messages": [SYSTEM, {"content": "2"}]}, True),
        ({"messages": [SYSTEM]}, {"messages": [{"content": "other"}]}, False),
        ({"instructions": "x", "input": "1"}, {"instructions": "x", "input": "2"}, True),
        ({"instructions": "x", "input": "1"}, {"instructions": "y", "input": "1"}, False),
    ],
)
def test_what_prompts_begin_with_is_their_instructions_or_their_first_message(
    one: object, other: object, alike: bool
) -> None:
    assert (of(one) == of(other)) is alike
    assert of(one)


@pytest.mark.parametrize("body", [{"input": "x"}, {"messages": "x"}, {"prompt": "x"}])
def test_a_prompt_that_has_no_such_beginning_shares_it_with_nobody(body: object) -> None:
    assert of(body) == b""
