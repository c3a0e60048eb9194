"""Claude on Bedrock in its own format, for callers who speak it."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator
from typing import Any

import pytest

from broker.errors import InferenceError
from tests.workers.anthropic_hub import C, G, request, user
from tests.workers.conformance.outcome import Outcome, fold
from tests.workers.conformance.recordings import Recording, all_recordings
from tests.workers.test_eventstream import message
from workers import registry
from workers.provider import Call, Provider, Unreadable

MODEL = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"
ANSWERS = [
    recording
    for recording in all_recordings()
    if recording.provider == "anthropic" and "error" not in recording.expected
]
STREAM = {"content-type": "application/vnd.amazon.eventstream"}


def asked(*messages: Any, **fields: Any) -> G.Request:
    made = request(*messages, **fields)
    made.generate.surface = G.SURFACE_MESSAGES
    return made


def served(made: G.Request, model: str = MODEL) -> Provider:
    return registry.provider("bedrock").serving(made, model)


def call(made: G.Request, model: str = MODEL) -> Call:
    provider = served(made, model)
    return provider.dialect.call(made, model, provider)


def told(made: G.Request, answer: bytes, headers: dict[str, str], size: int = 4096) -> Outcome:
    decoder = served(made).dialect.decoder(made, headers)
    events = []
    for start in range(0, len(answer), size):
        events += list(decoder.feed(answer[start : start + size]))
    return fold([*events, *decoder.close()])


def chunk(event: bytes) -> bytes:
    payload = json.dumps({"bytes": b64encode(event).decode(), "p": "abc"}).encode()
    return message(payload, message_type="event", event_type="chunk")


def framed(recording: Recording) -> bytes:
    lines = recording.answer.decode().splitlines()
    return b"".join(chunk(line[6:].encode()) for line in lines if line.startswith("data: "))


def test_the_model_is_in_the_path_and_the_version_in_the_body() -> None:
    made = asked(max_tokens=9, stream=True)
    written = call(made)
    path = "/model/us.anthropic.claude-sonnet-4-5-20250929-v1%3A0"
    assert written.path == f"{path}/invoke-with-response-stream"
    assert json.loads(written.body) == {
        "anthropic_version": "bedrock-2023-05-31",
        "max_tokens": 9,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
    }
    made.generate.stream = False
    assert call(made).path == f"{path}/invoke"
    made.platform.region = "eu-west-1"
    assert call(made).base_url == "https://bedrock-runtime.eu-west-1.amazonaws.com"


def test_beta_features_are_listed_in_the_body() -> None:
    made = asked(extra={"context_management": {"edits": []}})
    made.platform.extra_headers["Anthropic-Beta"] = "a-2025-01-01, b"
    written = call(made)
    listed = json.loads(written.body)["anthropic_beta"]
    assert listed == ["a-2025-01-01", "b", "context-management-2025-06-27"]
    assert "anthropic-beta" not in written.headers


def test_images_by_their_address_have_to_be_fetched() -> None:
    picture = C.Part(image=C.Image(url="https://a.example/b.png"))
    with pytest.raises(Unreadable):
        call(asked(user(picture)))


CHAT = request()
CHAT.generate.surface = G.SURFACE_CHAT


@pytest.mark.parametrize(("made", "model"), [(CHAT, MODEL), (asked(), "us.amazon.nova-pro-v1:0")])
def test_all_others_go_out_by_converse(made: G.Request, model: str) -> None:
    assert call(made, model).path.endswith("/converse")


@pytest.mark.parametrize("size", [1, 7, 4096])
@pytest.mark.parametrize("recording", ANSWERS, ids=lambda recording: recording.id)
def test_an_answer_means_what_it_does_at_anthropic(recording: Recording, size: int) -> None:
    made = asked(stream=recording.stream)
    direct = registry.provider("anthropic").dialect.decoder(made, {})
    expected = fold([*direct.feed(recording.answer), *direct.close()])
    if recording.stream:
        assert told(made, framed(recording), STREAM, size) == expected
    else:
        headers = {"content-type": "application/json"}
        assert told(made, recording.answer, headers, size) == expected


def test_an_exception_within_a_stream_is_the_error_it_names() -> None:
    begun = framed(next(r for r in ANSWERS if r.name == "stream-tool-call"))[:900]
    whole = begun[: sum(_lengths(begun))]
    thrown = message(
        b'{"message":"Slow down."}', message_type="exception", exception_type="throttlingException"
    )
    with pytest.raises(InferenceError) as caught:
        told(asked(stream=True), whole + thrown, STREAM)
    assert (caught.value.reason, caught.value.message) == ("upstream_rate_limit", "Slow down.")
    with pytest.raises(InferenceError) as caught:
        told(asked(stream=True), whole, STREAM)
    assert caught.value.reason == "upstream_incomplete"


def _lengths(data: bytes) -> Iterator[int]:
    """Of the whole messages at the beginning."""
    while len(data) >= 4 and (size := int.from_bytes(data[:4], "big")) <= len(data):
        yield size
        data = data[size:]


@pytest.mark.parametrize("payload", [b"{}", b"[]", b"no", b'{"bytes":1}', b'{"bytes":"!"}'])
def test_a_message_with_no_event_in_it_is_an_error(payload: bytes) -> None:
    broken = message(payload, message_type="event", event_type="chunk")
    with pytest.raises(InferenceError) as caught:
        told(asked(stream=True), broken, STREAM)
    assert caught.value.reason == "upstream_error"


def test_a_refusal_is_read_as_awss() -> None:
    dialect = served(asked()).dialect
    headers = {"x-amzn-errortype": "ThrottlingException:http://x/"}
    error = dialect.error(429, headers, b'{"message":"Too many tokens"}')
    assert (error.reason, error.message) == ("upstream_rate_limit", "Too many tokens")
