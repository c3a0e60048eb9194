"""Answers of Gemini as hub events."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import pytest

from broker.errors import InferenceError
from broker.v1 import content_pb2, event_pb2, generation_pb2
from tests.workers.anthropic_hub import PNG, request, tool
from tests.workers.gemini_hub import VERTEX, events, kinds, only, part

G = generation_pb2
STOP = event_pb2.FINISH_REASON_STOP
LENGTH = event_pb2.FINISH_REASON_LENGTH
CALLS = event_pb2.FINISH_REASON_TOOL_CALLS
FILTER = event_pb2.FINISH_REASON_CONTENT_FILTER
DONE: dict[str, Any] = {"finishReason": "STOP"}


def call(name: str = "f", **more: Any) -> dict[str, Any]:
    owner = {key: more.pop(key) for key in ("id", "args") if key in more}
    return {"functionCall": {"name": name, **owner}, **more}


def reason(found: Any) -> Any:
    [finished] = only(found, "choice_finished")
    return finished.reason


def test_the_first_object_says_who_answers() -> None:
    first = part({"text": "a"}) | {"createTime": "2026-02-15T07:50:39.178410Z"}
    first["usageMetadata"] = {"trafficType": "ON_DEMAND_FLEX"}
    started = events(first, part({"text": "b"}, **DONE))[0].started
    assert (started.model, started.upstream_id) == ("gemini-x", "r-1")
    assert (started.created, started.service_tier) == (1_771_141_839, "flex")


def test_text_and_thoughts_are_items_of_their_own() -> None:
    thought = {"text": "hm", "thought": True}
    found = events(part(thought), part(thought, {"text": "a"}), part({"text": "b"}, **DONE))
    assert [(t.item, t.text, t.summary) for t in only(found, "reasoning")] == [
        (0, "hm", True),
        (0, "hm", True),
    ]
    assert [(t.item, t.text) for t in only(found, "text")] == [(1, "a"), (1, "b")]
    assert kinds(found)[-2:] == ["choice_finished", "completed"]


# --- calls -------------------------------------------------------------------------------------


def test_a_call_is_seen_though_the_stream_stops_with_empty_text() -> None:
    found = events(
        part(call(args={"a": 1})), part({"text": "", "thoughtSignature": "c2ln"}, **DONE)
    )
    assert reason(found) == CALLS
    first, second = only(found, "tool_call")
    assert (first.name, first.call_id, first.index) == ("f", "call_r-1_0", 0)
    assert second.arguments == '{"a":1}'


def test_calls_count_through_the_whole_stream_and_have_ids_of_their_own() -> None:
    found = events(part(call(), call()), part({"text": "x"}), part(call(id="theirs"), **DONE))
    starts = [delta for delta in only(found, "tool_call") if delta.name]
    assert [delta.index for delta in starts] == [0, 1, 2]
    assert [delta.call_id for delta in starts] == ["call_r-1_0", "call_r-1_1", "theirs"]
    assert len({delta.item for delta in starts}) == 3
    texts = "".join(delta.arguments for delta in only(found, "tool_call"))
    assert texts == "{}{}{}"


def test_an_answer_that_is_too_long_is_that_even_after_a_call() -> None:
    assert reason(events(part(call(), finishReason="MAX_TOKENS"))) == LENGTH


def test_a_call_that_gemini_did_not_expect_is_a_call_all_the_same() -> None:
    assert reason(events(part(call("g"), finishReason="UNEXPECTED_TOOL_CALL"))) == CALLS


def test_a_changed_name_comes_back_as_the_callers() -> None:
    asked = request(stream=True, tools=[tool("1-a")])
    found = events(part(call("_1-a"), **DONE), asked=asked)
    assert only(found, "tool_call")[0].name == "1-a"


def test_the_function_that_stands_for_the_answer_is_its_text() -> None:
    form = G.ResponseFormat(kind=G.ResponseFormat.KIND_JSON_SCHEMA, name="1x", schema=b"{}")
    asked = request(stream=True, tools=[tool()], response_format=form)
    answer = call("_1x", args={"a": 1}, thoughtSignature="c2ln")
    found = events(part(answer, **DONE), asked=asked)
    assert [delta.text for delta in only(found, "text")] == ['{"a":1}']
    assert reason(found) == STOP
    assert not only(found, "tool_call")
    assert not only(found, "blob")


def test_a_custom_tools_argument_is_its_free_text() -> None:
    asked = request(stream=True, tools=[G.Tool(custom=G.CustomTool(name="python"))])
    found = events(part(call("python", args={"input": "1+1"}), **DONE), asked=asked)
    first, second = only(found, "tool_call")
    assert first.kind == content_pb2.TOOL_KIND_CUSTOM
    assert second.arguments == "1+1"


# --- signatures --------------------------------------------------------------------------------


@pytest.mark.parametrize(("at", "issuer"), [(None, "gemini"), (VERTEX, "vertex_ai")])
def test_a_signature_comes_before_what_it_signs_and_names_its_issuer(at: Any, issuer: str) -> None:
    signed = call(thoughtSignature="c2ln")
    found = events(part(signed, **DONE), **({"at": at} if at else {}))
    assert kinds(found)[1:4] == ["blob", "tool_call", "tool_call"]
    [blob] = only(found, "blob")
    assert blob.item == only(found, "tool_call")[0].item
    assert (blob.blob.issuer, blob.blob.kind, blob.blob.data) == (issuer, "function_call", b"c2ln")


def test_signed_text_stays_apart_from_what_is_not_signed() -> None:
    signed = {"text": "b", "thoughtSignature": "c2ln"}
    found = events(part({"text": "a"}), part(signed), part({"text": "c"}, **DONE))
    assert [(delta.item, delta.text) for delta in only(found, "text")] == [
        (0, "a"),
        (1, "b"),
        (2, "c"),
    ]
    [blob] = only(found, "blob")
    assert (blob.item, blob.blob.kind) == (1, "text")


# --- the end -----------------------------------------------------------------------------------

REASONS = {
    "STOP": STOP,
    "MAX_TOKENS": LENGTH,
    "CONTINUATION": LENGTH,
    "SAFETY": FILTER,
    "RECITATION": FILTER,
    "LANGUAGE": FILTER,
    "BLOCKLIST": FILTER,
    "PROHIBITED_CONTENT": FILTER,
    "SPII": FILTER,
    "MODEL_ARMOR": FILTER,
    "ESCALATION": FILTER,
    "PUP_LIMITED_DISABLED": FILTER,
    "IMAGE_SAFETY": FILTER,
    "IMAGE_PROHIBITED_CONTENT": FILTER,
    "IMAGE_RECITATION": FILTER,
    "OTHER": STOP,
    "NO_IMAGE": STOP,
    "IMAGE_OTHER": STOP,
    "A_LATER_ONE": STOP,
}


@pytest.mark.parametrize(("word", "expected"), REASONS.items())
def test_a_reason_to_finish_is_one_of_four(word: str, expected: int) -> None:
    found = events(part({"text": "a"}, finishReason=word))
    assert reason(found) == expected
    assert only(found, "choice_finished")[0].upstream_reason == word


@pytest.mark.parametrize(
    "word",
    [
        "MALFORMED_FUNCTION_CALL",
        "MALFORMED_RESPONSE",
        "MISSING_THOUGHT_SIGNATURE",
        "TOO_MANY_TOOL_CALLS",
        "UNEXPECTED_TOOL_CALL",
    ],
)
def test_an_answer_that_the_model_gave_up_is_an_error_worth_another_try(word: str) -> None:
    with pytest.raises(InferenceError, match="Malformed call: f") as caught:
        events(part(finishReason=word, finishMessage="Malformed call: f"))
    assert caught.value.reason == "upstream_error"


def test_an_empty_answer_is_an_error_worth_another_try() -> None:
    with pytest.raises(InferenceError, match="empty answer"):
        events(part(**DONE) | {"usageMetadata": {"promptTokenCount": 5, "totalTokenCount": 5}})


def test_a_blocked_prompt_is_an_answer_that_was_filtered() -> None:
    blocked = {"promptFeedback": {"blockReason": "JAILBREAK"}, "modelVersion": "g"}
    found = events(blocked)
    assert kinds(found) == ["started", "choice_finished", "completed"]
    assert reason(found) == FILTER


def test_why_an_answer_was_filtered_is_told_as_a_refusal() -> None:
    found = events(part({"text": "a"}, finishReason="SAFETY", finishMessage="Too dangerous."))
    [refusal] = only(found, "refusal")
    assert (refusal.text, refusal.item) == ("Too dangerous.", 1)


def test_a_stream_without_a_reason_to_finish_was_cut() -> None:
    with pytest.raises(InferenceError) as caught:
        events(part({"text": "a"}), part(call()))
    assert caught.value.reason == "upstream_incomplete"


def test_every_one_of_several_answers_has_to_finish() -> None:
    def chunk(*candidates: dict[str, Any]) -> dict[str, Any]:
        return {"candidates": list(candidates), "modelVersion": "g"}

    def said(index: int, *parts: Any, **more: Any) -> dict[str, Any]:
        return {"index": index, "content": {"parts": list(parts)}, **more}

    first = chunk(said(0, {"text": "a"}, **DONE), said(1, {"text": "b"}))
    with pytest.raises(InferenceError):
        events(first)
    found = events(first, chunk(said(1, call(), finishReason="STOP")))
    assert [(delta.choice, delta.text) for delta in only(found, "text")] == [(0, "a"), (1, "b")]
    assert [delta.choice for delta in only(found, "tool_call")] == [1, 1]
    ends = [(end.choice, end.reason) for end in only(found, "choice_finished")]
    assert ends == [(0, STOP), (1, CALLS)]


# --- usage -------------------------------------------------------------------------------------


def usage(*metadata: dict[str, Any]) -> Any:
    chunks = [part({"text": "a"}) | {"usageMetadata": data} for data in metadata]
    chunks[-1]["candidates"][0]["finishReason"] = "STOP"
    return only(events(*chunks), "completed")[0].usage


def test_token_classes_are_disjoint() -> None:
    def details(**kinds: int) -> list[dict[str, Any]]:
        return [{"modality": kind, "tokenCount": count} for kind, count in kinds.items()]

    found = usage(
        {
            "promptTokenCount": 100,
            "toolUsePromptTokenCount": 7,
            "cachedContentTokenCount": 40,
            "candidatesTokenCount": 30,
            "thoughtsTokenCount": 11,
            "totalTokenCount": 148,
            "promptTokensDetails": details(TEXT=75, AUDIO=25),
            "cacheTokensDetails": details(TEXT=30, AUDIO=10),
            "candidatesTokensDetails": details(TEXT=20, AUDIO=10),
        }
    )
    assert found == event_pb2.Usage(
        input_tokens=52,
        cache_read_tokens=40,
        input_audio_tokens=15,
        output_tokens=20,
        output_audio_tokens=10,
        reasoning_tokens=11,
    )


def test_counts_are_totals_so_far_and_objects_without_numbers_take_nothing_away() -> None:
    found = usage(
        {"promptTokenCount": 5, "totalTokenCount": 5},
        {"promptTokenCount": 5, "candidatesTokenCount": 3, "totalTokenCount": 8},
        {"trafficType": "ON_DEMAND"},
    )
    assert (found.input_tokens, found.output_tokens, found.estimated) == (5, 3, False)


def test_an_answer_without_counts_is_estimated() -> None:
    found = usage({"trafficType": "ON_DEMAND"})
    assert found.estimated
    assert found.output_tokens == 1


# --- other content -----------------------------------------------------------------------------


def test_an_image_comes_as_one_with_its_signature() -> None:
    data = base64.b64encode(PNG).decode()
    image = {"inlineData": {"mimeType": "image/png", "data": data}, "thoughtSignature": "c2ln"}
    found = events(part({"text": "Here:"}, image, **DONE))
    [shown] = only(found, "image")
    assert (shown.item, shown.image.media_type, shown.image.data) == (1, "image/png", PNG)
    assert [(b.item, b.blob.kind) for b in only(found, "blob")] == [(1, "inline_data")]


@pytest.mark.parametrize("form", ["pcm16", "wav"])
@pytest.mark.parametrize("stream", [True, False])
def test_sound_is_raw_samples_or_made_a_file_of(form: str, stream: bool) -> None:
    def sound(data: bytes) -> dict[str, Any]:
        kind = "audio/L16;codec=pcm;rate=16000"
        return {"inlineData": {"mimeType": kind, "data": base64.b64encode(data).decode()}}

    asked = request(stream=stream, audio=G.AudioOptions(format=form, voice=b"Kore"))
    found = events(part(sound(b"ab")), part(sound(b"cd"), **DONE), asked=asked)
    heard = only(found, "audio")
    assert heard[0].id == "audio_r-1"
    data = b"".join(delta.data for delta in heard)
    assert data[-4:] == b"abcd"
    if form == "pcm16":
        assert data == b"abcd"
        return
    assert (data[:4], data[8:16], len(data)) == (b"RIFF", b"WAVEfmt ", 44 + 4)
    rate, length = struct.unpack_from("<I12xI", data, 24)
    assert rate == 16_000
    assert length == (0xFFFFFFFF if stream else 2)


def test_parts_of_googles_own_tools_are_kept_whole_for_it() -> None:
    code = {"executableCode": {"language": "PYTHON", "code": "1"}, "thoughtSignature": "c2ln"}
    [opaque] = only(events(part(code, {"text": "1"}, **DONE)), "opaque")
    assert (opaque.opaque.type, opaque.opaque.issuer) == ("executableCode", "gemini")
    assert json.loads(opaque.opaque.json) == code


def test_log_probabilities_are_written_as_openai_writes_them() -> None:
    def entry(token: str, value: float) -> dict[str, Any]:
        return {"token": token, "tokenId": 1, "logProbability": value}

    result = {
        "chosenCandidates": [entry("é", -0.5), {"token": "!"}],
        "topCandidates": [{"candidates": [entry("é", -0.5), entry("e", -1.5)]}, {}],
    }
    found = events(part({"text": "é!"}, **DONE, logprobsResult=result))
    first, second = json.loads(only(found, "text")[0].logprobs)
    assert first == {
        "token": "é",
        "logprob": -0.5,
        "bytes": [195, 169],
        "top_logprobs": [
            {"token": "é", "logprob": -0.5, "bytes": [195, 169]},
            {"token": "e", "logprob": -1.5, "bytes": [101]},
        ],
    }
    assert (second["logprob"], second["top_logprobs"]) == (0.0, [])


def test_sources_are_citations_counted_in_characters() -> None:
    grounding = {
        "webSearchQueries": ["a", "b"],
        "groundingChunks": [
            {"web": {"uri": "https://a", "title": "A"}},
            {"web": {"uri": "https://b", "title": "B"}},
        ],
        "groundingSupports": [
            {"segment": {"startIndex": 3, "endIndex": 6}, "groundingChunkIndices": [0]}
        ],
    }
    thought = {"text": "hm", "thought": True}
    found = events(part(thought, {"text": "é bcd"}), part(**DONE, groundingMetadata=grounding))
    notes = only(found, "annotation")
    assert [json.loads(note.json)["url_citation"] for note in notes] == [
        {"start_index": 2, "end_index": 5, "title": "A", "url": "https://a"},
        {"start_index": 5, "end_index": 5, "title": "B", "url": "https://b"},
    ]
    assert {note.item for note in notes} == {only(found, "text")[0].item}
    assert only(found, "completed")[0].usage.tool_calls == {"web_search": 2}


# --- framing -----------------------------------------------------------------------------------


def decode(data: bytes, headers: dict[str, str], *, stream: bool = True) -> Any:
    decoder = VERTEX.dialect.decoder(request(stream=stream), headers)
    found = [*decoder.feed(data)]
    return [*found, *decoder.close()]


WHOLE = json.dumps(part({"text": "a"}, **DONE)).encode()


@pytest.mark.parametrize(
    "data",
    [
        WHOLE,
        b"\n [" + WHOLE + b"\n,\r\n" + WHOLE + b"]",
        b"data: " + WHOLE + b"\n\ndata: [DONE]\n\n",
    ],
    ids=["object", "array", "events"],
)
@pytest.mark.parametrize("kind", ["text/event-stream", "text/plain", ""])
def test_how_an_answer_is_framed_shows_with_its_first_byte(data: bytes, kind: str) -> None:
    found = decode(data, {"content-type": kind})
    assert "a" in "".join(delta.text for delta in only(found, "text"))
    assert kinds(found)[-1] == "completed"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "upstream_incomplete"),
        (WHOLE[:20], "upstream_incomplete"),
        (b"<html>busy</html>", "upstream_error"),
        (b"7", "upstream_error"),
        (b'{"candidates": 7}', "upstream_error"),
        (b'{"candidates": [{"content": {"parts": [{"text": 7}]}}]}', "upstream_error"),
        (b"{}", "upstream_incomplete"),
    ],
)
def test_what_is_no_answer_is_an_error_and_no_bug(data: bytes, reason: str) -> None:
    with pytest.raises(InferenceError) as caught:
        decode(data, {"content-type": "application/json"}, stream=False)
    assert caught.value.reason == reason


def test_what_came_before_an_error_in_a_stream_is_shown() -> None:
    error = {"error": {"code": 503, "message": "overloaded", "status": "UNAVAILABLE"}}
    decoder = VERTEX.dialect.decoder(request(stream=True), {"content-type": "text/event-stream"})
    data = b"".join(
        b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in (part({"text": "a"}), error)
    )
    shown: list[event_pb2.Event] = []
    with pytest.raises(InferenceError) as caught:
        shown.extend(decoder.feed(data))
    assert kinds(shown) == ["started", "text"]
    assert (caught.value.reason, caught.value.upstream_status) == ("upstream_overloaded", 503)
