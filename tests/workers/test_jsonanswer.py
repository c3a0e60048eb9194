"""Answers of status 200 that are none, in every format that comes as one object or a stream of them."""

from __future__ import annotations

import pytest

from broker.errors import InferenceError
from tests.workers.anthropic_hub import request, user
from workers.registry import provider

HUB = request(user("hi"))
WHOLE = {"content-type": "application/json", "request-id": "req_1", "x-request-id": "req_1"}
CASES = [
    (b"<html>no</html>", "upstream_error", "not valid JSON"),
    (b'{"half": ', "upstream_incomplete", "not valid JSON"),
    (b"", "upstream_incomplete", ""),
    (b"7", "upstream_error", "not a JSON object"),
]


@pytest.mark.parametrize("name", ["anthropic", "bedrock", "cohere", "gemini"])
@pytest.mark.parametrize(("answer", "reason", "said"), CASES)
def test_what_is_no_answer_is_told_with_the_status_it_came_with(
    name: str, answer: bytes, reason: str, said: str
) -> None:
    decoder = provider(name).dialect_for("m").decoder(HUB, WHOLE)
    with pytest.raises(InferenceError) as caught:
        list(decoder.feed(answer))
        list(decoder.close())
    error = caught.value
    assert (error.reason, error.upstream_status) == (reason, 200)
    assert said in error.message


@pytest.mark.parametrize("name", ["anthropic", "bedrock", "cohere", "gemini"])
def test_a_body_without_end_is_not_kept(name: str) -> None:
    decoder = provider(name).dialect_for("m").decoder(HUB, WHOLE)
    with pytest.raises(InferenceError, match="too large"):
        for _ in range(65):
            list(decoder.feed(b'{"' + bytes(1 << 20)))
