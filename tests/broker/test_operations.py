"""Every operation has a model, and says whether its answer comes in pieces."""

from __future__ import annotations

import pytest

from broker import operations
from broker.v1 import generation_pb2


@pytest.mark.parametrize("operation", operations.ALL)
def test_every_operation_names_its_model(operation: str) -> None:
    request = generation_pb2.Request()
    getattr(request, operation).model = "provider/model"
    assert operations.name(request) == operation
    assert operations.model(request) == "provider/model"


def test_a_request_without_an_operation_has_no_model_and_no_stream() -> None:
    request = generation_pb2.Request()
    assert not operations.name(request)
    assert not operations.model(request)
    assert not operations.streams(request)


@pytest.mark.parametrize("operation", ["generate", "image", "transcribe", "complete"])
def test_these_stream_when_asked_to(operation: str) -> None:
    request = generation_pb2.Request()
    asked = getattr(request, operation)
    asked.model = "m"
    assert not operations.streams(request)
    asked.stream = True
    assert operations.streams(request)


def test_speech_always_comes_in_pieces_and_vectors_never_do() -> None:
    spoken, embedded = generation_pb2.Request(), generation_pb2.Request()
    spoken.speak.model = embedded.embed.model = "m"
    assert operations.streams(spoken)
    assert not operations.streams(embedded)


@pytest.mark.parametrize("operation", operations.ALL)
def test_asking_for_a_stream_changes_no_operation(operation: str) -> None:
    request = generation_pb2.Request()
    getattr(request, operation).model = "m"
    operations.set_streamed(request, True)
    assert operations.name(request) == operation
    streamed = {"generate", "image", "transcribe", "speak", "complete"}
    assert operations.streams(request) == (operation in streamed)


def test_who_draws_or_runs_a_tool_may_be_silent_for_long() -> None:
    image, request = generation_pb2.Request(), generation_pb2.Request()
    image.image.model = "m"
    assert operations.pauses(image)
    assert not operations.pauses(request)
    request.generate.tools.add().function.name = "f"
    assert not operations.pauses(request)
    request.generate.tools.add().hosted.type = "image_generation"
    assert operations.pauses(request)
