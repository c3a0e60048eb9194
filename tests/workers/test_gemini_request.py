"""The parameters of a request as generateContent has them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from broker.v1 import generation_pb2
from tests.workers.anthropic_hub import request, tool, user
from tests.workers.gemini_hub import (
    FLASH,
    GEMINI,
    NEW,
    OLD,
    PRO,
    VERTEX,
    body,
    call,
    config,
    dropped,
    refusal,
)
from workers.dialects.gemini.models import Budget, Levels, family

G = generation_pb2
FORMAT = generation_pb2.ResponseFormat


def test_a_plain_question_is_nothing_but_its_text() -> None:
    made = call(request(user("hi")))
    assert json.loads(made.body) == {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]}
    assert (made.path, made.dropped) == ("/v1beta/models/gemini-2.5-flash:generateContent", ())


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"temperature": 1.9}, {"temperature": 1.9}),
        ({"temperature": 0.0}, {"temperature": 0.0}),
        ({"top_p": 0.5}, {"topP": 0.5}),
        ({"presence_penalty": 1.0}, {"presencePenalty": 1.0}),
        ({"frequency_penalty": -1.0}, {"frequencyPenalty": -1.0}),
        ({"seed": 7}, {"seed": 7}),
        ({"seed": 2**40}, {"seed": 2**31 - 1}),
        ({"max_tokens": 9}, {"maxOutputTokens": 9}),
        ({"max_tokens": 9, "max_output_tokens": 8}, {"maxOutputTokens": 8}),
        ({"stop": ["a", "b"]}, {"stopSequences": ["a", "b"]}),
        ({"n": 1}, {}),
        ({"n": 3}, {"candidateCount": 3}),
        ({"logprobs": True}, {"responseLogprobs": True}),
        ({"logprobs": True, "top_logprobs": 5}, {"responseLogprobs": True, "logprobs": 5}),
        ({"logprobs": False}, {}),
        ({"modalities": ["text", "image"]}, {"responseModalities": ["TEXT", "IMAGE"]}),
        ({"modalities": ["text", "audio"]}, {"responseModalities": ["AUDIO"]}),
    ],
)
def test_a_parameter_has_its_place_in_the_config(fields: Any, expected: Any) -> None:
    assert config(**fields) == expected


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"logit_bias": {"1": 2.0}}, "logit_bias"),
        ({"user": "u"}, "user"),
        ({"metadata": {"a": "b"}}, "metadata"),
        ({"store": True}, "store"),
        ({"verbosity": "low"}, "verbosity"),
        ({"prediction": b"{}"}, "prediction"),
        ({"prompt_cache_key": "k"}, "prompt_cache_key"),
        ({"parallel_tool_calls": False}, "parallel_tool_calls"),
        ({"service_tier": "scale"}, "service_tier"),
    ],
)
def test_what_gemini_cannot_take_is_left_out_and_reported(fields: Any, name: str) -> None:
    asked = request(**fields)
    assert dropped(asked) == {name}
    assert body(asked).keys() == {"contents"}
    asked.platform.drop_params = False
    assert refusal(asked).param == name


@pytest.mark.parametrize("model", ["gemini-3-pro-preview", "gemini-2.5-flash-preview-09-2025"])
def test_penalties_are_left_out_where_they_are_refused(model: str) -> None:
    asked = request(presence_penalty=1.0, frequency_penalty=1.0)
    assert dropped(asked, model) == {"presence_penalty", "frequency_penalty"}
    assert "generationConfig" not in body(asked, model)


@pytest.mark.parametrize(
    ("tier", "sent"),
    [("default", "standard"), ("flex", "flex"), ("priority", "priority"), ("auto", None)],
)
def test_the_tier_is_a_field_at_ai_studio_and_a_header_at_vertex(tier: str, sent: Any) -> None:
    asked = request(service_tier=tier)
    assert body(asked).get("serviceTier") == sent
    made = call(asked, at=VERTEX)
    assert "serviceTier" not in json.loads(made.body)
    header = made.headers.get("x-vertex-ai-llm-shared-request-type")
    assert header == (sent if sent in ("flex", "priority") else None)


def test_metadata_is_labels_at_vertex_as_far_as_labels_can_hold_it() -> None:
    asked = request(metadata={"team": "a-1", "Mail": "x", "note": "Two words"})
    assert body(asked, at=VERTEX)["labels"] == {"team": "a-1"}
    assert dropped(asked, at=VERTEX) == {"metadata"}


def test_more_answers_than_gemini_gives_are_refused() -> None:
    assert refusal(request(n=9)).param == "n"


def test_several_answers_are_not_asked_for_as_a_stream() -> None:
    assert call(request(stream=True)).path.endswith(":streamGenerateContent?alt=sse")
    assert call(request(stream=True, n=2)).path.endswith(":generateContent")


# --- thinking ----------------------------------------------------------------------------------


def effort(model: str, word: str, **fields: Any) -> Any:
    options = G.ReasoningOptions(effort=word)
    return config(model, reasoning=options, **fields).get("thinkingConfig")


@pytest.mark.parametrize("model", [FLASH, PRO, NEW, "gemini-2.0-flash"])
def test_who_does_not_ask_for_thinking_leaves_it_to_the_model(model: str) -> None:
    assert config(model) == {}


@pytest.mark.parametrize(
    ("model", "word", "tokens"),
    [
        (FLASH, "minimal", 512),
        (FLASH, "low", 1024),
        (FLASH, "medium", 8192),
        (FLASH, "high", 24_576),
        (FLASH, "xhigh", 24_576),
        (PRO, "xhigh", 32_768),
        (PRO, "max", 32_768),
        ("gemini-2.5-flash-lite", "minimal", 512),
    ],
)
def test_effort_is_a_budget_on_2_5(model: str, word: str, tokens: int) -> None:
    assert effort(model, word) == {"thinkingBudget": tokens, "includeThoughts": True}


@pytest.mark.parametrize(("model", "tokens"), [(FLASH, 0), (PRO, 128)])
def test_no_effort_is_the_least_budget_there_is(model: str, tokens: int) -> None:
    assert effort(model, "none") == {"thinkingBudget": tokens}


@pytest.mark.parametrize(
    ("model", "limit", "tokens"),
    [(FLASH, 20_000, 15_904), (FLASH, 1000, 500), (PRO, 1000, 500), (PRO, 100, 128)],
)
def test_a_budget_leaves_room_for_the_answer(model: str, limit: int, tokens: int) -> None:
    assert effort(model, "high", max_tokens=limit)["thinkingBudget"] == tokens


def test_a_budget_too_small_to_think_with_is_none() -> None:
    assert effort("gemini-2.5-flash-lite", "low", max_tokens=600) == {"thinkingBudget": 0}


@pytest.mark.parametrize(
    ("model", "levels"),
    [
        ("gemini-3-flash-preview", "MINIMAL MINIMAL LOW MEDIUM HIGH HIGH"),
        ("gemini-3-pro-preview", "LOW LOW LOW HIGH HIGH HIGH"),
        ("gemini-3.1-pro-preview", "LOW LOW LOW MEDIUM HIGH HIGH"),
        ("gemini-3.1-flash-lite", "MINIMAL MINIMAL LOW MEDIUM HIGH HIGH"),
        ("gemini-3.7-flash", "LOW LOW LOW MEDIUM HIGH HIGH"),
        ("gemini-4-argon", "LOW LOW LOW MEDIUM HIGH HIGH"),
        ("gemini-flash-latest", "LOW LOW LOW MEDIUM HIGH HIGH"),
    ],
)
def test_effort_is_a_level_from_3_on(model: str, levels: str) -> None:
    for word, level in zip(
        ["none", "minimal", "low", "medium", "high", "xhigh"], levels.split(), strict=True
    ):
        thoughts = {} if word == "none" else {"includeThoughts": True}
        assert effort(model, word) == {"thinkingLevel": level} | thoughts


@pytest.mark.parametrize(
    "model", ["gemini-1.5-flash", "gemini-2.0-flash", "gemini-2.5-flash-image", "gemma-3-27b-it"]
)
def test_effort_is_left_out_where_models_cannot_be_told_to_think(model: str) -> None:
    asked = request(reasoning=G.ReasoningOptions(effort="high"))
    assert dropped(asked, model) == {"reasoning_effort"}
    assert "generationConfig" not in body(asked, model)


@pytest.mark.parametrize(
    ("model", "thinking"),
    [
        ("gemini-2.5-flash-preview-05-20", Budget(1, 24_576, can_stop=True)),
        ("gemini-2.5-pro-preview-tts", None),
        ("gemini-3-pro-image", None),
        ("gemini-3.1-flash-image", Levels(("MINIMAL", "HIGH"))),
        ("tunedModels/mine", None),
    ],
)
def test_a_family_is_found_by_line_and_version(model: str, thinking: Any) -> None:
    assert family(model).thinking == thinking


# --- fields of Gemini's own --------------------------------------------------------------------

SAFETY = [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "OFF"}]


@pytest.mark.parametrize("name", ["safety_settings", "safetySettings"])
def test_fields_that_only_gemini_has_go_on_in_either_spelling(name: str) -> None:
    assert body(request(extra={name: SAFETY}))["safetySettings"] == SAFETY


def test_fields_of_the_config_go_into_it() -> None:
    extra = {"top_k": 3, "thinking_config": {"thinkingBudget": 5}, "imageConfig": {"a": 1}}
    asked = request(extra=extra, reasoning=G.ReasoningOptions(effort="high"), temperature=0.5)
    assert body(asked)["generationConfig"] == {
        "topK": 3,
        "thinkingConfig": {"thinkingBudget": 5},
        "imageConfig": {"a": 1},
        "temperature": 0.5,
    }


def test_whole_objects_of_geminis_are_merged_and_win() -> None:
    extra = {"generationConfig": {"temperature": 0.1, "mediaResolution": "LOW"}}
    merged = body(request(extra=extra, temperature=0.5, top_p=0.4))["generationConfig"]
    assert merged == {"temperature": 0.1, "mediaResolution": "LOW", "topP": 0.4}


def test_googles_own_openai_format_is_understood() -> None:
    google = {"cached_content": "cachedContents/1", "thinking_config": {"include_thoughts": True}}
    written = body(request(extra={"google": google}))
    assert written["cachedContent"] == "cachedContents/1"
    assert written["generationConfig"] == {"thinkingConfig": {"include_thoughts": True}}


def test_a_field_that_nobody_knows_is_left_out_and_reported() -> None:
    asked = request(extra={"labels": {"a": "b"}, "guided_json": {}})
    assert dropped(asked) == {"labels", "guided_json"}
    assert body(asked).keys() == {"contents"}
    assert dropped(asked, at=VERTEX) == {"guided_json"}
    assert body(asked, at=VERTEX)["labels"] == {"a": "b"}


# --- answers of other kinds than text ----------------------------------------------------------


@pytest.mark.parametrize(
    ("voice", "name"),
    [(b"alloy", "Kore"), (b"Puck", "Puck"), (b'{"id": "Charon"}', "Charon")],
)
def test_a_voice_of_openais_has_a_namesake_or_a_neighbour(voice: bytes, name: str) -> None:
    speech = config(audio=G.AudioOptions(format="wav", voice=voice))["speechConfig"]
    assert speech == {"voiceConfig": {"prebuiltVoiceConfig": {"voiceName": name}}}


def test_a_sound_format_that_gemini_has_not_is_refused() -> None:
    asked = request(modalities=["audio"], audio=G.AudioOptions(format="mp3", voice=b"alloy"))
    assert refusal(asked).param == "audio.format"


SCHEMA = b'{"type":"object","properties":{"a":{"type":"string"}},"additionalProperties":false}'


def test_a_json_answer_is_a_mime_type_and_a_schema() -> None:
    plain = FORMAT(kind=FORMAT.KIND_JSON_OBJECT)
    assert config(response_format=plain) == {"responseMimeType": "application/json"}
    asked = FORMAT(kind=FORMAT.KIND_JSON_SCHEMA, name="x", schema=SCHEMA)
    assert config(response_format=asked) == {
        "responseMimeType": "application/json",
        "responseJsonSchema": json.loads(SCHEMA),
    }


def test_the_oldest_models_take_the_schema_in_a_subset() -> None:
    asked = FORMAT(kind=FORMAT.KIND_JSON_SCHEMA, name="x", schema=SCHEMA)
    subset = {"type": "object", "properties": {"a": {"type": "string"}}}
    assert config(OLD, response_format=asked)["responseSchema"] == subset


def test_from_3_on_functions_and_a_schema_stand_beside_each_other() -> None:
    asked = FORMAT(kind=FORMAT.KIND_JSON_SCHEMA, name="x", schema=SCHEMA)
    written = body(request(tools=[tool()], response_format=asked), NEW)
    assert [f["name"] for f in written["tools"][0]["functionDeclarations"]] == ["f"]
    assert "responseJsonSchema" in written["generationConfig"]
    assert "toolConfig" not in written


def test_before_3_a_schema_beside_functions_is_a_function_that_has_to_be_called() -> None:
    asked = FORMAT(kind=FORMAT.KIND_JSON_SCHEMA, name="x", schema=SCHEMA)
    written = body(request(tools=[tool()], response_format=asked))
    assert [f["name"] for f in written["tools"][0]["functionDeclarations"]] == ["f", "x"]
    assert written["toolConfig"] == {"functionCallingConfig": {"mode": "ANY"}}
    assert "generationConfig" not in written


def test_before_3_json_of_any_shape_is_left_out_beside_functions() -> None:
    asked = request(tools=[tool()], response_format=FORMAT(kind=FORMAT.KIND_JSON_OBJECT))
    assert dropped(asked) == {"response_format"}
    assert "generationConfig" not in body(asked)


# --- paths -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "path"),
    [
        ("gemini-3-flash-preview", "/v1beta/models/gemini-3-flash-preview"),
        ("models/gemini-x", "/v1beta/models/gemini-x"),
        ("tunedModels/mine-1", "/v1beta/tunedModels/mine-1"),
        ("a?key=b#c", "/v1beta/models/a%3Fkey%3Db%23c"),
        ("a:delete", "/v1beta/models/a%3Adelete"),
    ],
)
def test_the_model_is_in_the_path_and_cannot_lead_out_of_it(model: str, path: str) -> None:
    assert call(request(), model).path == f"{path}:generateContent"


@pytest.mark.parametrize("model", ["../files", "models/../x", "", "a//b"])
def test_a_name_that_is_none_is_not_found(model: str) -> None:
    assert refusal(request(), model).reason == "model_not_found"


def test_a_base_url_may_end_with_the_version() -> None:
    from dataclasses import replace

    at = replace(GEMINI, base_url="http://127.0.0.1:1/v1beta")
    assert call(request(), at=at).path == "/models/gemini-2.5-flash:generateContent"
