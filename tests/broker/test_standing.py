"""How places stand, in words and by model."""

from __future__ import annotations

import pytest

from broker.capacity import ANY
from broker.standing import Standing, said, together

WORDS = {
    "no limit known": Standing("p", "k", "m"),
    "no limit known, 3 running": Standing("p", "k", "m", running=3, limited=0),
    "40 calls at a time (found)": Standing("p", "k", "m", 40.7, why="found"),
    "1 calls at a time, 0.5 calls/s (found)": Standing("p", "k", "m", 0.4, 0.5, why="found"),
    "2.5 calls/s (advertised)": Standing("p", "k", "m", rate=2.5, why="advertised"),
    "12 calls at a time (found), 1,200 running, 4 held back, 57 429s (3 in the last minute), "
    "left alone for 7.5 s": Standing(
        *("p", "k", "m", 12, None, None, "found", 7.5),
        *(1200, 4, 3, 57),
    ),
}


@pytest.mark.parametrize("words", WORDS)
def test_it_is_told_in_words(words: str) -> None:
    assert said(WORDS[words]) == words


def test_a_model_is_all_its_keys_together() -> None:
    known = [
        Standing("p", "a", "m", 10, 5.0, None, "found", 9.0, 8, 1, 2, 3),
        Standing("p", "b", "m", 20, None, None, "found, configured", 0.0, 7, 0, 0, 1),
        Standing("p", "b", ANY, rest_s=4.0),
        Standing("p", "a", "other", 1),
        Standing("q", "a", "m", 1),
    ]
    (one,) = together(known, [("p", "m"), ("p", "unused"), ("p", "m")])
    assert one == Standing(
        *("p", "", "m", 30, None, None, "found, configured"),
        *(4.0, 15, 1, 2, 4),  # until the first key may be used again
    )


def test_what_nobody_knows_of_one_key_is_not_known_of_all() -> None:
    known = [Standing("p", "a", "m", 10, running=3), Standing("p", "b", "m", 10)]
    (one,) = together(known, [("p", "m")])
    assert (one.slots, one.running) == (20, None)
