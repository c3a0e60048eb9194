"""The parameter tables of Gemini at AI Studio and at Vertex AI."""

from __future__ import annotations

from workers.parameters import (
    Reasoning,
    Table,
    clamp,
    drop,
    emulate,
    family,
    mapped,
    rename,
    words,
)

_CONFIG = "generationConfig."
_INT32 = 2**31
_NO_PENALTY = drop(
    "presence_penalty",
    "frequency_penalty",
    note="refused: penalty is not enabled for this model",
)
_NO_THINKING = drop("reasoning_effort", note="any thinkingConfig is refused")
_THINKING = mapped("reasoning_effort", _CONFIG + "thinkingConfig")
_TO_TOOLS = "tools[].functionDeclarations"
_TO_CALLING = "toolConfig.functionCallingConfig"
_TO_SCHEMA = _CONFIG + "responseJsonSchema"
_SCHEMA_APART = emulate(
    "response_format=json_schema",
    path=_TO_SCHEMA,
    note="beside functions as the input of one that has to be called",
)
_SAMPLING = (
    *rename("temperature", _CONFIG + "temperature"),
    *rename("top_p", _CONFIG + "topP"),
    *rename("presence_penalty", _CONFIG + "presencePenalty"),
    *rename("frequency_penalty", _CONFIG + "frequencyPenalty"),
    *clamp("seed", -_INT32, _INT32 - 1, _CONFIG + "seed"),
    *rename("max_completion_tokens", _CONFIG + "maxOutputTokens", note="thoughts included"),
    *rename("max_tokens", _CONFIG + "maxOutputTokens", note="thoughts included"),
    *clamp("stop", None, 5, _CONFIG + "stopSequences"),
)

AI_STUDIO_TABLE = Table(
    _SAMPLING,
    mapped("stream", "(url)", note="another method, :streamGenerateContent"),
    emulate("stream_options", note="usage always comes"),
    mapped("n", _CONFIG + "candidateCount", note="1 to 8; a stream of several comes at once"),
    mapped("logprobs", _CONFIG + "responseLogprobs"),
    mapped("top_logprobs", _CONFIG + "logprobs"),
    mapped("tools", _TO_TOOLS),
    mapped("functions", _TO_TOOLS),
    *(mapped(f"tool_choice={word}", _TO_CALLING) for word in ("auto", "none", "required")),
    mapped("tool_choice=named", _TO_CALLING + ".allowedFunctionNames"),
    mapped("function_call", _TO_CALLING),
    drop("parallel_tool_calls"),
    mapped("response_format=json_object", _CONFIG + "responseMimeType"),
    mapped("response_format=json_schema", _TO_SCHEMA),
    _NO_THINKING,
    mapped("modalities", _CONFIG + "responseModalities"),
    mapped("audio", _CONFIG + "speechConfig", note="formats wav and pcm16"),
    words(
        "service_tier",
        {"auto": None, "default": "standard", "flex": "flex", "priority": "priority"},
        "serviceTier",
    ),
    mapped("web_search_options", "tools[].googleSearch"),
    mapped("extra_headers", "(headers)"),
    mapped("role=developer", "systemInstruction"),
    mapped("role=function", "contents[].parts[].functionResponse"),
    emulate("message_name", path="contents[].parts[].text", note="before the text of users"),
    drop(
        "logit_bias",
        "metadata",
        "prediction",
        "prompt_cache_key",
        "prompt_cache_retention",
        "safety_identifier",
        "store",
        "user",
        "verbosity",
    ),
    families=(
        family(
            "Gemini 3.1 Image",
            r"gemini-3\.1.*image",
            _NO_PENALTY,
            _THINKING,
            mapped("role=developer", "contents[].parts[].text"),
            reasoning=Reasoning.ALWAYS,
        ),
        family(
            "Gemini Image and TTS",
            r"gemini.*(image|tts)",
            _NO_PENALTY,
            mapped("role=developer", "contents[].parts[].text"),
        ),
        family(
            "Gemini 2.5 preview",
            r"gemini-2\.5-.*preview",
            _NO_PENALTY,
            _THINKING,
            _SCHEMA_APART,
            reasoning=Reasoning.BY_DEFAULT,
        ),
        family(
            "Gemini 2.5 Pro",
            r"gemini-2\.5-pro",
            _THINKING,
            _SCHEMA_APART,
            reasoning=Reasoning.ALWAYS,
        ),
        family(
            "Gemini 2.5",
            r"gemini-2\.5",
            _THINKING,
            _SCHEMA_APART,
            reasoning=Reasoning.BY_DEFAULT,
        ),
        family("Gemini 2.0", r"gemini-2", _SCHEMA_APART),
        family(
            "Gemini 1",
            r"gemini-1",
            emulate(
                "response_format=json_schema",
                path=_CONFIG + "responseSchema",
                note="in the OpenAPI subset; beside functions as the input of one",
            ),
        ),
        family("Gemini", r"gemini", _NO_PENALTY, _THINKING, reasoning=Reasoning.ALWAYS),
        family(
            "Gemma",
            r"gemma",
            mapped("role=developer", "contents[].parts[].text"),
            mapped("response_format=json_schema", _CONFIG + "responseSchema"),
        ),
    ),
)
VERTEX_AI_TABLE = AI_STUDIO_TABLE.but(
    mapped("service_tier", "(headers)", note="flex and priority"),
    mapped("metadata", "labels", note="what labels can hold: lower-case letters, digits, - and _"),
)
