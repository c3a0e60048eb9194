"""Completions: what is asked, what is refused on both fronts, what is answered."""

from __future__ import annotations

import json
from typing import Any

import pytest

from broker.errors import InferenceError
from broker.translate.check import check
from broker.translate.completions import CompletionAnswer, CompletionStream, parse_completion
from broker.v1 import generation_pb2
from tests.broker.translate.hub import events


def parse(**fields: Any) -> generation_pb2.Request:
    return parse_completion(json.dumps({"model": "m", "prompt": "hi", **fields}).encode())


@pytest.mark.parametrize(
    ("given", "prompts", "tokens"),
    [
        ("hi", ["hi"], []),
        ("", [""], []),
        (["a", "b"], ["a", "b"], []),
        ([1, 2], [], [[1, 2]]),
        ([[1, 2], [3]], [], [[1, 2], [3]]),
    ],
)
def test_a_prompt_comes_in_four_forms(given: Any, prompts: list[str], tokens: list[Any]) -> None:
    complete = parse(prompt=given).complete
    assert list(complete.prompts) == prompts
    assert [list(some.ids) for some in complete.tokens] == tokens


def test_every_field_has_its_place() -> None:
    request = parse(
        suffix="s", echo=True, n=2, best_of=3, max_tokens=0, temperature=0.5, top_p=0.5,
        presence_penalty=1, frequency_penalty=-1, seed=7, logprobs=5, user="u", stop="x",
        logit_bias={"1": 2, "3": None}, new_field=[1], tags="a,b",
    )  # fmt: skip
    complete = request.complete
    assert (complete.suffix, complete.echo, complete.n, complete.best_of) == ("s", True, 2, 3)
    assert complete.HasField("max_tokens")
    assert (complete.seed, complete.logprobs, complete.user) == (7, 5, "u")
    assert list(complete.stop) == ["x"]
    assert dict(complete.logit_bias) == {"1": 2}
    assert dict(complete.extra) == {"new_field": b"[1]"}
    assert list(request.platform.tags) == ["a", "b"]
    assert not parse(echo=None, n=None, max_tokens=None).complete.HasField("n")


# Fields, the path of the one at fault, its code.
MISTAKES: list[tuple[dict[str, Any], str, str]] = [
    ({"prompt": []}, "prompt", "empty_array"),
    ({"temperature": 3}, "temperature", "decimal_above_max_value"),
    ({"top_p": 2}, "top_p", "decimal_above_max_value"),
    ({"presence_penalty": 3}, "presence_penalty", "decimal_above_max_value"),
    ({"n": 0}, "n", "integer_below_min_value"),
    ({"n": 129}, "n", "integer_above_max_value"),
    ({"best_of": 21}, "best_of", "integer_above_max_value"),
    ({"best_of": 2, "n": 3}, "best_of", "invalid_value"),
    ({"max_tokens": -1}, "max_tokens", "integer_below_min_value"),
    ({"logprobs": 6}, "logprobs", "integer_above_max_value"),
    ({"stop": ["a"] * 5}, "stop", "array_above_max_length"),
    ({"logit_bias": {"1": 101}}, "logit_bias", "decimal_above_max_value"),
]
# Those that typed messages cannot express.
OF_JSON: list[tuple[dict[str, Any], str, str]] = [
    ({"model": ""}, "model", "empty_string"),
    ({"prompt": None}, "prompt", "missing_required_parameter"),
    ({"prompt": 1}, "prompt", "invalid_type"),
    ({"prompt": ["a", 1]}, "prompt[1]", "invalid_type"),
    ({"prompt": [1, "a"]}, "prompt[1]", "invalid_type"),
    ({"prompt": [[1], []]}, "prompt[1]", "empty_array"),
    ({"prompt": [-1]}, "prompt[0]", "integer_below_min_value"),
    ({"echo": 1}, "echo", "invalid_type"),
    ({"stream_options": {}}, "stream_options", "invalid_value"),
    ({"best_of": 2, "stream": True}, "best_of", "invalid_value"),
]


@pytest.mark.parametrize(("fields", "param", "code"), [*MISTAKES, *OF_JSON])
def test_a_mistake_is_named(fields: dict[str, Any], param: str, code: str) -> None:
    with pytest.raises(InferenceError) as caught:
        parse(**fields)
    assert (caught.value.param, caught.value.code) == (param, code)


@pytest.mark.parametrize(("fields", "param", "code"), MISTAKES)
def test_the_same_typed_mistake_has_the_same_name(
    fields: dict[str, Any], param: str, code: str
) -> None:
    request = generation_pb2.Request()
    complete = request.complete
    complete.model = "m"
    complete.prompts.extend(fields.get("prompt", ["hi"]))
    for name, value in fields.items():
        if name == "logit_bias":
            complete.logit_bias.update(value)
        elif name == "stop":
            complete.stop.extend(value)
        elif name != "prompt":
            setattr(complete, name, value)
    with pytest.raises(InferenceError) as caught:
        check(request, streamed=False)
    assert (caught.value.param, caught.value.code) == (param, code)


def test_both_kinds_of_prompts_are_one_too_many() -> None:
    request = parse()
    request.complete.tokens.add().ids.append(1)
    with pytest.raises(InferenceError) as caught:
        check(request, streamed=False)
    assert caught.value.param == "prompt"


# --- answers ---

SAID = """
    started { model: "m-1" system_fingerprint: "fp" }
    text { choice: 1 text: "b" }
    text { text: "a" logprobs: "[{\\"token\\":\\"a\\",\\"logprob\\":-1,\\"top_logprobs\\":null}]" }
    text { text: "c" logprobs: "[{\\"token\\":\\"c\\",\\"logprob\\":-2,\\"top_logprobs\\":[]}]" }
    reasoning { text: "never shown" }
    choice_finished { choice: 1 reason: FINISH_REASON_LENGTH }
    choice_finished { reason: FINISH_REASON_STOP }
    completed { usage { input_tokens: 3 output_tokens: 4 } }
"""
LOGPROBS = {
    "tokens": ["a", "c"],
    "token_logprobs": [-1, -2],
    "top_logprobs": [None, {}],
    "text_offset": [0, 1],
}


def test_a_whole_answer_has_the_legacy_shape() -> None:
    answer = CompletionAnswer("cmpl-1", 7, parse())
    answer.feed(events(SAID))
    shown = json.loads(answer.render())
    usage = shown.pop("usage")
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (3, 4)
    assert shown == {
        "id": "cmpl-1",
        "object": "text_completion",
        "created": 7,
        "model": "m-1",
        "system_fingerprint": "fp",
        "choices": [
            {"text": "ac", "index": 0, "logprobs": LOGPROBS, "finish_reason": "stop"},
            {"text": "b", "index": 1, "logprobs": None, "finish_reason": "length"},
        ],
    }


@pytest.mark.parametrize("usage", [False, True])
def test_a_stream_has_a_chunk_for_every_piece(usage: bool) -> None:
    options = {"stream_options": {"include_usage": True}} if usage else {}
    stream = CompletionStream.of("cmpl-1", 7, parse(stream=True, **options))
    data = b"".join(stream.feed([event]) for event in events(SAID)) + stream.finish()
    *lines, done = data.decode().strip().split("\n\n")
    assert done == "data: [DONE]"
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines]
    assert {(chunk["id"], chunk["model"], chunk["object"]) for chunk in chunks} == {
        ("cmpl-1", "m-1", "text_completion")
    }
    if usage:
        assert chunks.pop()["usage"]["total_tokens"] == 7
    assert all(("usage" in chunk) == usage for chunk in chunks)
    found = [chunk["choices"][0] for chunk in chunks]
    assert [(c["index"], c["text"], c["finish_reason"]) for c in found] == [
        (1, "b", None),
        (0, "a", None),
        (0, "c", None),
        (1, "", "length"),
        (0, "", "stop"),
    ]
    assert [c["logprobs"]["text_offset"] for c in found if c["logprobs"]] == [[0], [1]]


def test_a_stream_that_fails_is_never_done() -> None:
    stream = CompletionStream.of("cmpl-1", 7, parse(stream=True))
    stream.feed(events('started { model: "m" }'))
    end = stream.error(InferenceError("upstream_incomplete", "cut"))
    assert b'"error"' in end
    assert not stream.finish()
