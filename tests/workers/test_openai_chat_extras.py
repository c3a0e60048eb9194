"""What single servers put beside an answer arrives in the terms that all share."""

from __future__ import annotations

import json
from typing import Any

import pytest

from broker.v1 import event_pb2
from tests.workers.chat_answers import DONE, STOP, delta, stream, unary


def _kinds(events: list[event_pb2.Event]) -> list[str]:
    return [event.WhichOneof("kind") or "" for event in events]


def _details(events: list[event_pb2.Event]) -> list[tuple[int, Any]]:
    found = []
    for event in events:
        if event.HasField("blob"):
            blob = event.blob.blob
            assert (blob.issuer, blob.kind) == ("openai_chat", "reasoning_details")
            found.append((event.blob.item, json.loads(blob.data)))
    return found


def test_pieces_of_reasoning_details_become_whole_before_the_choice_ends() -> None:
    text = {"type": "reasoning.text", "index": 0, "format": "f"}
    events = stream(
        delta(reasoning="a", reasoning_details=[{**text, "text": "a", "signature": None}]),
        delta(reasoning="b", reasoning_details=[{**text, "text": "b"}]),
        delta(reasoning_details=[{**text, "text": "", "signature": "s"}]),
        delta(reasoning_details=[{"type": "reasoning.encrypted", "index": 1, "data": "x"}]),
        delta(content="answer"),
        STOP,
        DONE,
    )
    assert _details(events) == [
        (0, {**text, "text": "ab", "signature": "s"}),
        (0, {"type": "reasoning.encrypted", "index": 1, "data": "x"}),
    ]
    assert _kinds(events)[-4:] == ["blob", "blob", "choice_finished", "completed"]


def test_details_without_readable_text_are_kept_too() -> None:
    details = [{"type": "reasoning.encrypted", "data": "x"}]
    events = unary({"content": "a", "reasoning_details": details})
    assert [detail for _, detail in _details(events)] == details


@pytest.mark.parametrize("details", [None, [], "x", [1], {}])
def test_details_of_another_form_are_nothing(details: Any) -> None:
    assert not _details(unary({"content": "a", "reasoning_details": details}))


def _cited(events: list[event_pb2.Event]) -> list[tuple[str, str, int, int]]:
    found = []
    for event in events:
        if event.HasField("annotation"):
            shown = json.loads(event.annotation.json)
            assert shown["type"] == "url_citation"
            cited = shown["url_citation"]
            found.append((cited["url"], cited["title"], cited["start_index"], cited["end_index"]))
    return found


SOURCES = [{"url": "https://a", "title": "A"}, {"url": "https://b", "title": None}]
CITED = [
    ("https://a", "A", 3, 6),
    ("https://a", "A", 6, 9),
    ("https://b", "https://b", 0, 0),
]


def test_sources_of_a_search_are_annotations_at_their_marks() -> None:
    assert _cited(unary({"content": "So [1][1][9]"}, search_results=SOURCES)) == CITED
    chunks = [delta(content="So ["), delta(content="1][1]"), STOP]
    assert _cited(stream(*({**c, "search_results": SOURCES} for c in chunks), DONE)) == CITED


def test_bare_addresses_are_sources_too() -> None:
    events = unary({"content": "So [2]"}, citations=["https://a", "https://b"])
    assert _cited(events) == [("https://a",) * 2 + (0, 0), ("https://b",) * 2 + (3, 6)]


def test_lists_of_tokens_become_openais_log_probabilities() -> None:
    lists = {
        "tokens": ["Hé", "!"],
        "token_logprobs": [-0.5, None],
        "top_logprobs": [{"Hé": -0.5, "Ho": -2.0}],
    }
    events = unary({"content": "Hé!"}, choice={"logprobs": lists})
    text = next(event.text for event in events if event.HasField("text"))
    first, second = json.loads(text.logprobs)
    assert (first["token"], first["logprob"], first["bytes"]) == ("Hé", -0.5, [72, 195, 169])
    assert [top["token"] for top in first["top_logprobs"]] == ["Hé", "Ho"]
    assert (second["logprob"], second["top_logprobs"]) == (None, [])


def test_groqs_word_for_the_default_tier_is_openais() -> None:
    started = unary({"content": "a"}, service_tier="on_demand")[0].started
    assert started.service_tier == "default"
