"""The simulator completes prompts: whole, streamed, repeated, with log probabilities."""

from __future__ import annotations

import json
from typing import Any

import pytest

from workers.sim.answer import Answer
from workers.sim.knobs import BadRequestError
from workers.sim.legacy import completion_to
from workers.sim.wire import completion_body, stream_events


def answered(**fields: Any) -> Answer:
    return completion_to(json.dumps({"model": "echo", "prompt": "a b c", **fields}).encode(), 1)


def whole(answer: Answer) -> dict[str, Any]:
    body = completion_body(answer).replace(b"\x00", b"0").replace(b"\x01", b"7")
    found: dict[str, Any] = json.loads(body)
    return found


@pytest.mark.parametrize(
    ("fields", "texts"),
    [
        ({}, ["a b c"]),
        ({"prompt": ["x", "y z"]}, ["x", "y z"]),
        ({"prompt": [1, 2]}, ["1 2"]),
        ({"prompt": [[1], [2, 3]], "n": 2}, ["1", "1", "2 3", "2 3"]),
        ({"echo": True}, ["a b ca b c"]),
        ({"echo": True, "max_tokens": 0}, ["a b c"]),
        ({"max_tokens": 2}, ["a b"]),
        ({"stop": "b"}, ["a "]),
    ],
)
def test_every_prompt_is_answered(fields: dict[str, Any], texts: list[str]) -> None:
    answer = answered(**fields)
    found = whole(answer)
    assert found["object"] == "text_completion"
    assert [choice["text"] for choice in found["choices"]] == texts
    assert [choice["index"] for choice in found["choices"]] == list(range(len(texts)))
    shown = [""] * len(texts)
    for event in stream_events(answer):
        if event.kind in ("delta", "finish"):
            [choice] = json.loads(event.data.replace(b"\x00", b"0").replace(b"\x01", b"7"))[
                "choices"
            ]
            shown[choice["index"]] += choice["text"]
    assert shown == texts


def test_log_probabilities_are_parallel_lists() -> None:
    found = whole(answered(logprobs=1))["choices"][0]["logprobs"]
    assert found["tokens"] == ["a", " b", " c"]
    assert found["text_offset"] == [0, 1, 3]
    assert len(found["token_logprobs"]) == len(found["top_logprobs"]) == 3
    assert whole(answered())["choices"][0]["logprobs"] is None


@pytest.mark.parametrize("prompt", [None, [], 5])
def test_a_prompt_has_to_be_there(prompt: Any) -> None:
    with pytest.raises(BadRequestError):
        answered(prompt=prompt)
