"""Every recording, said in other ways that mean the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from broker.errors import TABLE, InferenceError
from broker.v1 import generation_pb2
from tests.workers.conformance.mutations import (
    CHANGES,
    FRAMINGS,
    ODD,
    Change,
    changed,
    documents,
    paths,
    put,
    without_nulls,
)
from tests.workers.conformance.outcome import decode
from tests.workers.conformance.recordings import Recording, all_recordings, providers
from workers import registry
from workers.provider import Dialect

ANSWERED = [recording for recording in all_recordings() if recording.status < 400]
REFUSED = [recording for recording in all_recordings() if recording.status >= 400]
# A page of HTML shows with its first character alone.
STREAMED = [r for r in ANSWERED if r.is_event_stream and not r.answer.startswith(b"<")]


def _dialect(recording: Recording) -> Dialect:
    return registry.provider(recording.provider).dialect_for(recording.model)


def _told(recording: Recording, answer: bytes) -> object:
    """What the caller is told of an answer, or of its failure."""
    try:
        return decode(_dialect(recording), recording, answer, 4096)
    except InferenceError as error:
        return error.reason


# That a finish reason is null says that this server names them.
TELLING = ("sim-stream-without-finish-reason", without_nulls)
MEANT = [
    pytest.param(recording, change, id=f"{recording.id}-{change.__name__}")
    for recording in ANSWERED
    for change in CHANGES
    if (recording.id, change) != TELLING
]


@pytest.mark.parametrize(("recording", "change"), MEANT)
def test_an_answer_means_the_same_in_other_json(recording: Recording, change: Change) -> None:
    answer = changed(recording, change)
    assert _told(recording, answer) == _told(recording, recording.answer)


@pytest.mark.parametrize("framing", FRAMINGS.values(), ids=FRAMINGS)
@pytest.mark.parametrize("recording", STREAMED, ids=lambda recording: recording.id)
def test_a_stream_means_the_same_in_other_framing(
    recording: Recording, framing: Callable[[str], str]
) -> None:
    answer = framing(recording.answer.decode()).encode()
    assert _told(recording, answer) == _told(recording, recording.answer)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("recording", REFUSED, ids=lambda recording: recording.id)
def test_an_error_means_the_same_in_other_json(recording: Recording, change: Change) -> None:
    said = [
        _dialect(recording).error(recording.status, recording.headers, answer)
        for answer in (recording.answer, changed(recording, change))
    ]
    first, second = [(e.reason, e.message, e.code, e.param, e.retry_after) for e in said]
    assert second == first


def _oddities(recordings: list[Recording]) -> Iterator[tuple[Recording, str, bytes]]:
    """Each kind of field that a provider sends, once with each odd value."""
    seen: set[object] = set()
    for recording in recordings:
        for document, write in documents(recording):
            kind = str(document.get("type")) if isinstance(document, dict) else ""
            for path in paths(document):
                shape = tuple("#" if isinstance(step, int) else step for step in path)
                if (recording.stream, recording.status >= 400, kind, shape) in seen:
                    continue
                seen.add((recording.stream, recording.status >= 400, kind, shape))
                for odd in ODD:
                    yield recording, f"{shape} = {odd!r}", write(put(document, path, odd))


@pytest.mark.parametrize("provider", providers())
def test_no_field_makes_a_decoder_raise_anything_but_a_typed_error(provider: str) -> None:
    count = 0
    recordings = [r for r in all_recordings() if r.provider == provider]
    for recording, what, answer in _oddities(recordings):
        count += 1
        try:
            error = _read(recording, answer)
        except Exception as exc:
            raise AssertionError(f"{recording.id}: {what}: {exc!r}") from exc
        if error is not None:
            assert error.reason in TABLE, what
            assert error.message, what
            assert isinstance(error.message, str), what
            assert isinstance(error.code, str | None), what
            assert isinstance(error.param, str | None), what
    assert count > 100


def _read(recording: Recording, answer: bytes) -> InferenceError | None:
    dialect = _dialect(recording)
    if recording.status >= 400:
        return dialect.error(recording.status, recording.headers, answer)
    request = generation_pb2.Request()
    request.generate.model = recording.model
    request.generate.stream = recording.stream
    try:
        decoder = dialect.decoder(request, recording.headers)
        for event in [*decoder.feed(answer), *decoder.close()]:
            event.SerializeToString()
    except InferenceError as error:
        return error
    return None
