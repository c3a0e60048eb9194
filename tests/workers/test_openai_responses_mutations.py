"""Answers of the Responses API, said in other ways that mean the same, and in ways that mean none."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from broker.answer import Fold
from broker.errors import TABLE, InferenceError
from broker.v1 import event_pb2, inference_service_pb2
from tests.broker.translate.hub import asked
from tests.workers.conformance.mutations import (
    CHANGES,
    FRAMINGS,
    ODD,
    Change,
    changed,
    documents,
    paths,
    put,
)
from tests.workers.conformance.recordings import Recording
from tests.workers.responses_answers import ANSWERS, sse, streamed, whole
from workers import registry

# Items of hosted tools go on as they are, whatever is in them.
VERBATIM = ("web search", "code interpreter", "mcp")
READ = [name for name in ANSWERS if name not in VERBATIM]
PROVIDER = registry.provider("openai")
_Event = dict[str, Any]


def told(answer: bytes, *, stream: bool = True, size: int = 4096) -> inference_service_pb2.Answer:
    request = asked(stream=stream)
    decoder = PROVIDER.serving(request, "m").dialect.decoder(request, {})
    events: list[event_pb2.Event] = []
    for start in range(0, len(answer), size):
        events += decoder.feed(answer[start : start + size])
    fold = Fold()
    fold.feed([*events, *decoder.close()])
    return fold.answer("resp_1", 1)


def recording(name: str, *, stream: bool) -> Recording:
    answer = sse(streamed(name)) if stream else json.dumps(whole(name)).encode()
    return Recording("openai", name, "m", stream, 200, {}, answer, is_text=stream, expected={})


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_an_answer_means_the_same_in_other_json(name: str, change: Change, *, stream: bool) -> None:
    sent = recording(name, stream=stream)
    assert told(changed(sent, change), stream=stream) == told(sent.answer, stream=stream)


@pytest.mark.parametrize("framing", FRAMINGS.values(), ids=FRAMINGS)
@pytest.mark.parametrize("name", ANSWERS)
def test_a_stream_means_the_same_in_other_framing(name: str, framing: Callable[[str], str]) -> None:
    sent = sse(streamed(name))
    assert told(framing(sent.decode()).encode(), size=7) == told(sent)


def _unknown(events: list[_Event]) -> Iterator[_Event]:
    """What a newer server says in between."""
    place = {"output_index": 0, "item_id": "msg_0"}
    for event in events:
        yield {"type": "response.brand_new.delta", **place, "delta": "new"}
        yield {"type": "keepalive", "sequence_number": 7}
        yield event


def _unnumbered(events: list[_Event]) -> Iterator[_Event]:
    for event in events:
        yield {name: value for name, value in event.items() if name != "sequence_number"}


def _parts_of_reasoning(events: list[_Event]) -> Iterator[_Event]:
    """As Bedrock's server of this format tells reasoning."""
    for event in events:
        yield event
        if event["type"] == "response.output_item.added":
            place = {"output_index": event["output_index"], "item_id": event["item"]["id"]}
            part = {"type": "reasoning_text", "text": ""}
            yield {"type": "response.reasoning_part.added", **place, "part": part}


def _in_letters(events: list[_Event]) -> Iterator[_Event]:
    for event in events:
        if not event["type"].endswith(".delta") or event.get("logprobs"):
            yield event
            continue
        for letter in event["delta"]:
            yield {**event, "delta": letter}


SEQUENCES = (_unknown, _unnumbered, _parts_of_reasoning, _in_letters)


@pytest.mark.parametrize("change", SEQUENCES, ids=lambda change: change.__name__.strip("_"))
@pytest.mark.parametrize("name", READ)
def test_a_stream_means_the_same_with_other_events(
    name: str, change: Callable[[list[_Event]], Iterator[_Event]]
) -> None:
    events = streamed(name)
    assert told(sse(list(change(events)))) == told(sse(events))


def _oddities() -> Iterator[tuple[str, bytes, bool]]:
    """Each kind of field, once with each odd value."""
    seen: set[object] = set()
    for stream in (True, False):
        for name in ANSWERS:
            for document, write in documents(recording(name, stream=stream)):
                item = document.get("item") or {}
                kind = (stream, document.get("type"), item.get("type"))
                for path in paths(document):
                    shape = (kind, *("#" if isinstance(step, int) else step for step in path))
                    if shape in seen:
                        continue
                    seen.add(shape)
                    for odd in ODD:
                        yield f"{shape} = {odd!r}", write(put(document, path, odd)), stream


def test_no_field_makes_the_decoder_raise_anything_but_a_typed_error() -> None:
    count = 0
    for what, answer, stream in _oddities():
        count += 1
        try:
            error = _read(answer, stream=stream)
        except Exception as exc:
            raise AssertionError(f"{what}: {exc!r}") from exc
        if error is not None:
            assert error.reason in TABLE, what
            assert isinstance(error.message, str), what
    assert count > 1000


def _read(answer: bytes, *, stream: bool) -> InferenceError | None:
    request = asked(stream=stream)
    decoder = PROVIDER.serving(request, "m").dialect.decoder(request, {})
    try:
        for event in [*decoder.feed(answer), *decoder.close()]:
            event.SerializeToString()
    except InferenceError as error:
        return error
    return None
