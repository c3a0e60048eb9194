"""Requests for many vectors are split as the provider wants it, and come back as one answer."""

from __future__ import annotations

from typing import Any

import pytest

from broker.errors import InferenceError
from broker.v1 import event_pb2, generation_pb2, operations_pb2
from workers.emulation import Split, plan_of
from workers.emulation.split import split
from workers.provider import Most
from workers.registry import provider


def asked(texts: list[str], **fields: Any) -> generation_pb2.Request:
    embed = operations_pb2.EmbedRequest(model="m", texts=texts, **fields)
    embed.extra["truncate"] = b'"END"'
    platform = generation_pb2.Platform(region="eu")
    return generation_pb2.Request(embed=embed, platform=platform)


def parts(request: generation_pb2.Request, most: Most) -> list[int]:
    """How many inputs each call gets."""
    made = split(request, most)
    if made is None:
        return [len(request.embed.texts) or len(request.embed.tokens)]
    embeds = [made.request_of(call).embed for call in range(made.calls)]
    assert [text for one in embeds for text in one.texts] == list(request.embed.texts)
    assert [one for each in embeds for one in each.tokens] == list(request.embed.tokens)
    return [len(one.texts) or len(one.tokens) for one in embeds]


@pytest.mark.parametrize(
    ("count", "most", "sizes"),
    [
        (1, Most(1), [1]),
        (3, Most(1), [1, 1, 1]),
        (96, Most(96), [96]),
        (97, Most(96), [96, 1]),
        (200, Most(96), [96, 96, 8]),
        (200, Most(0), [200]),
        (2048, Most(2048, 300_000), [2048]),
    ],
)
def test_no_call_has_more_inputs_than_the_provider_takes(
    count: int, most: Most, sizes: list[int]
) -> None:
    assert parts(asked(["text"] * count), most) == sizes


@pytest.mark.parametrize(
    ("texts", "sizes"),
    [
        (["x" * 100] * 4, [1, 1, 1, 1]),
        (["x" * 40] * 4, [3, 1]),
        (["x" * 1000, "x", "x"], [1, 2]),
        (["x", "x" * 1000, "x"], [1, 1, 1]),
        # Three bytes a character.
        (["語" * 20] * 4, [2, 2]),
    ],
)
def test_no_call_has_more_tokens_than_the_provider_takes(
    texts: list[str], sizes: list[int]
) -> None:
    assert parts(asked(texts), Most(10, 64)) == sizes


def test_tokens_are_counted_as_they_are() -> None:
    request = generation_pb2.Request()
    for _ in range(4):
        request.embed.tokens.add().ids.extend(range(1000, 1030))
    assert parts(request, Most(10, 64)) == [2, 2]


def test_each_call_has_everything_but_the_other_inputs() -> None:
    request = asked(
        ["a", "b"],
        dimensions=8,
        user="u",
        input_type="query",
        format=operations_pb2.VECTOR_FORMAT_JSON,
    )
    made = split(request, Most(1))
    assert made is not None
    second = made.request_of(1)
    request.embed.texts[:] = ["b"]
    assert second == request


def vectors(first: int, *values: bytes) -> event_pb2.Event:
    return event_pb2.Event(vectors=operations_pb2.Vectors(first=first, values=values))


def completed(tokens: int) -> event_pb2.Event:
    usage = event_pb2.Usage(input_tokens=tokens, estimated=tokens == 2)
    return event_pb2.Event(completed=event_pb2.Completed(usage=usage, model=f"m-{tokens}"))


def started() -> event_pb2.Event:
    return event_pb2.Event(started=event_pb2.Started(upstream_id="x"))


def test_the_answers_of_the_calls_become_one() -> None:
    made = split(asked(["a", "b", "c"]), Most(2))
    assert made is not None
    joint = made.joint()
    late = joint.add(1, [started(), vectors(0, b"C"), completed(2)])
    early = joint.add(0, [started(), vectors(0, b"A", b"B"), completed(3)])
    assert [event.WhichOneof("kind") for event in late] == ["started", "vectors"]
    assert late[1].vectors.first == 2
    assert [event.WhichOneof("kind") for event in early] == ["vectors", "completed"]
    done = early[-1].completed
    assert (done.usage.input_tokens, done.usage.estimated, done.model) == (5, True, "m-2")


def test_vectors_that_an_earlier_try_gave_are_not_given_again() -> None:
    made = split(asked(["a", "b", "c", "d"]), Most(3))
    assert made is not None
    joint = made.joint()
    joint.add(0, [started(), vectors(1, b"B")])
    again = joint.add(0, [started(), vectors(0, b"A", b"other", b"C")])
    given = [(event.vectors.first, list(event.vectors.values)) for event in again]
    assert given == [(0, [b"A"]), (2, [b"C"])]


@pytest.mark.parametrize(
    ("reason", "tries", "again"),
    [
        ("upstream_overloaded", 1, True),
        ("upstream_rate_limit", 2, True),
        ("upstream_overloaded", 3, False),
        ("invalid_request", 1, False),
        ("upstream_credentials", 1, False),
        ("unsupported_operation", 1, False),
    ],
)
def test_a_call_is_made_again_where_that_may_help(reason: str, tries: int, again: bool) -> None:
    made = split(asked(["a", "b"]), Most(1))
    assert made is not None
    wait = made.again_after(tries, InferenceError(reason, "no"), 0.5)
    assert (wait is not None) == again


def test_the_wait_is_what_the_provider_says() -> None:
    made = split(asked(["a", "b"]), Most(1))
    assert made is not None
    for told, wait in ((3.0, 3.0), (3600.0, None)):
        error = InferenceError("upstream_rate_limit", "wait", retry_after=told)
        assert made.again_after(1, error, 0.5) == wait


def test_the_plan_follows_the_provider() -> None:
    request = asked(["a"] * 200)
    made = plan_of(request, "embed-v4.0", provider("cohere"))
    assert isinstance(made, Split)
    assert made.calls == 3
    assert plan_of(request, "m", provider("openai")) is None
    # Nobody offers it: the dialect is not there to say how much it takes.
    assert plan_of(request, "m", provider("anthropic")) is None
