"""The conformance suite: every provider's every recording, cut in pieces in every way."""

from __future__ import annotations

from typing import Any

import pytest

from broker.errors import TABLE, InferenceError
from broker.providers import REGISTRY
from tests.workers.conformance.outcome import Outcome, decode
from tests.workers.conformance.recordings import FOLDER, Recording, all_recordings, providers
from workers import registry
from workers.provider import Dialect

RECORDINGS = all_recordings()
ANSWERED = [r for r in RECORDINGS if r.status < 400]
REFUSED = [r for r in RECORDINGS if r.status >= 400]
STREAMS = [
    r for r in ANSWERED if (r.is_event_stream or r.is_binary_stream) and "error" not in r.expected
]


def _dialect(recording: Recording) -> Dialect:
    return registry.provider(recording.provider).dialect_for(recording.model)


def _ids(recordings: list[Recording]) -> list[Any]:
    return [pytest.param(recording, id=recording.id) for recording in recordings]


def _cuts() -> list[Any]:
    """Every recording in every piece size, event streams with both line ends."""
    return [
        pytest.param(recording, size, line_end, id=f"{recording.id}-{size}-{name}")
        for recording in ANSWERED
        for size in (1, 7, 4096)
        for name, line_end in (("lf", b"\n"), ("crlf", b"\r\n"))
        if line_end == b"\n" or recording.is_event_stream
    ]


def _compare(outcome: Outcome, expected: dict[str, Any]) -> None:
    if "model" in expected:
        assert outcome.model == expected["model"]
    _compare_choices(outcome, expected["choices"])
    if "usage" in expected:
        assert outcome.usage is not None
        assert {key: outcome.usage[key] for key in expected["usage"]} == expected["usage"]
        assert not outcome.estimated
    else:
        assert outcome.estimated


def _compare_choices(outcome: Outcome, expected: list[dict[str, Any]]) -> None:
    assert len(outcome.choices) == len(expected)
    for index, wanted in enumerate(expected):
        got = outcome.choices[index]
        calls = [{"name": c["name"], "arguments": c["arguments"]} for c in got.tool_calls]
        found = {**vars(got), "tool_calls": calls}
        assert {key: found[key] for key in wanted} == wanted
        ids = [call["id"] for call in got.tool_calls]
        assert len(set(ids)) == len(ids)


def _compare_error(error: InferenceError, expected: dict[str, Any]) -> None:
    assert error.reason in TABLE
    assert "b'" not in error.message
    found = {**vars(error), "code": error.code}
    assert {key: found[key] for key in expected} == expected


@pytest.mark.parametrize(("recording", "size", "line_end"), _cuts())
def test_an_answer_means_the_same_however_it_is_cut(
    recording: Recording, size: int, line_end: bytes
) -> None:
    answer = recording.answer
    if recording.is_event_stream:
        answer = answer.replace(b"\n", line_end)
    if "error" in recording.expected:
        with pytest.raises(InferenceError) as caught:
            decode(_dialect(recording), recording, answer, size)
        _compare_error(caught.value, recording.expected["error"])
    else:
        _compare(decode(_dialect(recording), recording, answer, size), recording.expected)


@pytest.mark.parametrize("recording", _ids(REFUSED))
def test_an_error_answer_becomes_the_reason_of_the_table(recording: Recording) -> None:
    error = _dialect(recording).error(recording.status, recording.headers, recording.answer)
    assert error.upstream_status == recording.status
    _compare_error(error, recording.expected["error"])


@pytest.mark.parametrize("recording", _ids(STREAMS))
def test_a_cut_stream_is_an_error_or_the_whole_answer_and_never_a_short_one(
    recording: Recording,
) -> None:
    dialect = _dialect(recording)
    # Behind every event, and in the middle of each one.
    ends = recording.ends
    starts = [0, *ends]
    cuts = {*ends[:-1], *((a + b) // 2 for a, b in zip(starts, ends, strict=False))}
    # Long streams: every boundary near both ends and a sample between, to stay quick.
    chosen = sorted(cuts)
    if len(chosen) > 120:
        chosen = [*chosen[:40], *chosen[40:-40:9], *chosen[-40:]]
    reasons = []
    for cut in [0, *chosen]:
        try:
            outcome = decode(dialect, recording, recording.answer[:cut], 4096)
        except InferenceError as error:
            reasons.append(error.reason)
        else:
            _compare_choices(outcome, recording.expected["choices"])
    # Cut before anything came, it fails at least once.
    assert set(reasons) == {"upstream_incomplete"}


def test_every_registered_provider_has_recordings() -> None:
    missing = [name for name in REGISTRY if not list((FOLDER / name).glob("*.json"))]
    assert not missing


def test_every_folder_of_recordings_belongs_to_a_provider() -> None:
    assert [name for name in providers() if name not in REGISTRY] == []
