"""What the dialects' own code has to write, by dialect, column and path.

Only cells that are mapped without a list of words, or emulated by the dialect: what becomes of all
others follows from their row. A key may end with the family where families differ.
"""

from __future__ import annotations

from typing import Any

import orjson

from tests.workers.parameters.samples import SCHEMA

NAMES = ("weather", "time")


def _tools(write: Any) -> list[Any]:
    return [write(name) for name in NAMES]


def _chat_tool(name: str) -> dict[str, Any]:
    function = {"name": name, "description": "Tells.", "parameters": SCHEMA}
    return {"type": "function", "function": function}


def _claude_tool(name: str) -> dict[str, Any]:
    return {"name": name, "description": "Tells.", "input_schema": SCHEMA}


def _google_tool(name: str) -> dict[str, Any]:
    return {"name": name, "description": "Tells.", "parametersJsonSchema": SCHEMA}


# The OpenAPI subset knows no additionalProperties.
_OPENAPI = {name: value for name, value in SCHEMA.items() if name != "additionalProperties"}


def _old_google_tool(name: str) -> dict[str, Any]:
    return {"name": name, "description": "Tells.", "parameters": _OPENAPI}


_NAMED = {"type": "function", "function": {"name": "weather"}}
_ANY_OBJECT = {
    "type": "json_schema",
    "json_schema": {"name": "object", "schema": {"type": "object"}},
}
_CLAUDE_RESULT = [
    {"type": "tool_result", "tool_use_id": "call", "content": "rain"},
    {"type": "text", "text": "Who are you?"},
]
_JSON_ONLY = (
    "Answer with one valid JSON object and nothing else: no text around it and no code fences."
)
_CALL_A_TOOL = "Answer by calling a tool, not with text alone."


class Among:
    """One of the values at the path."""

    def __init__(self, value: Any) -> None:
        self.value = value


class Json:
    """Text that is the JSON of a value, its keys in any order."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and bool(orjson.loads(other) == self.value)

    def __hash__(self) -> int:
        return 0


class Absent:
    """Nothing is at the path."""


Expected = dict[tuple[str, ...], Any]

_CHAT: Expected = {
    ("stream_options", "stream_options.include_usage"): True,
    ("functions", "tools"): _tools(_chat_tool),
    ("function_call", "tool_choice"): _NAMED,
    ("function_call", "tool_choice", "perplexity"): "required",
    ("function_call", "tool_choice", "ollama"): Absent(),
    ("tool_choice=none", "tools"): Absent(),
    ("tool_choice=required", "messages[]"): Among({"role": "system", "content": _CALL_A_TOOL}),
    ("tool_choice=named", "tool_choice"): "required",
    ("tool_choice=named", "tools"): [_chat_tool("weather")],
    ("response_format=json_object", "response_format"): _ANY_OBJECT,
    ("response_format=json_schema", "response_format"): {"type": "json_object"},
    ("logprobs", "logprobs"): 1,
    ("top_logprobs", "logprobs"): 2,
    ("message_name", "messages[].content"): Among("Ann: Hi."),
    ("message_name", "messages[].content", "perplexity"): "Ann: Hi.\n\nWho are you?",
}
_CLAUDE: Expected = {
    ("stream", "(url)"): "/invoke-with-response-stream",
    ("functions", "tools"): _tools(_claude_tool),
    ("function_call", "tool_choice"): {"type": "tool", "name": "weather"},
    # Families that refuse to be forced.
    ("function_call", "tool_choice", "Claude Opus 5.5, Fable and Mythos 5.1+"): {"type": "auto"},
    ("function_call", "tool_choice", "Claude Sonnet 5.5"): {"type": "auto"},
    ("user", "metadata.user_id"): "user-7",
    ("safety_identifier", "metadata.user_id"): "id-7",
    ("metadata", "metadata.user_id"): "id-9",
    ("response_format=json_object", "system[].text"): _JSON_ONLY,
    ("response_format=json_schema", "output_config.format"): {
        "type": "json_schema",
        "schema": SCHEMA,
    },
    ("response_format=json_schema", "tools[].input_schema"): SCHEMA,
    ("tools", "tools"): _tools(_claude_tool),
    ("tool_choice=auto", "tool_choice.type"): "auto",
    ("tool_choice=none", "tool_choice.type"): "none",
    ("tool_choice=required", "tool_choice.type"): "any",
    ("tool_choice=required", "system[].text"): _CALL_A_TOOL,
    ("tool_choice=named", "tool_choice.name"): "weather",
    ("tool_choice=named", "tools"): [_claude_tool("weather")],
    ("parallel_tool_calls", "tool_choice.disable_parallel_tool_use"): True,
    ("reasoning_effort", "output_config.effort"): "high",
    ("reasoning_effort", "thinking.budget_tokens"): 16_384,
    ("web_search_options", "tools"): [{"type": "web_search_20250305", "name": "web_search"}],
    ("role=developer", "system"): [{"type": "text", "text": "Be kind."}],
    ("role=function", "messages[].content"): Among(_CLAUDE_RESULT),
    ("message_name", "messages[].content"): [
        {"type": "text", "text": "Ann: Hi."},
        {"type": "text", "text": "Who are you?"},
    ],
}
_COHERE: Expected = {
    ("functions", "tools"): _tools(_chat_tool),
    ("function_call", "tool_choice"): "REQUIRED",
    ("function_call", "tool_choice", "Command R and older"): Absent(),
    ("response_format=json_object", "response_format.type"): "json_object",
    ("response_format=json_schema", "response_format.json_schema"): SCHEMA,
    ("tools", "tools"): _tools(_chat_tool),
    ("tool_choice=none", "tool_choice"): "NONE",
    ("tool_choice=none", "tools"): Absent(),
    ("tool_choice=required", "tool_choice"): "REQUIRED",
    ("tool_choice=required", "messages[]"): Among({"role": "system", "content": _CALL_A_TOOL}),
    ("tool_choice=named", "tool_choice"): "REQUIRED",
    ("tool_choice=named", "tools"): [_chat_tool("weather")],
    ("reasoning_effort", "thinking"): {"type": "enabled", "token_budget": 16_384},
    ("message_name", "messages[].content"): Among("Ann: Hi."),
}
_CALLING = "toolConfig.functionCallingConfig"
_CONFIG = "generationConfig."
_GEMINI: Expected = {
    ("stream", "(url)"): ":streamGenerateContent?alt=sse",
    ("n", _CONFIG + "candidateCount"): 2,
    ("functions", "tools[].functionDeclarations"): _tools(_google_tool),
    **{
        (column, "tools[].functionDeclarations", family): _tools(_old_google_tool)
        for column in ("functions", "tools")
        for family in ("Gemini 1", "Gemma")
    },
    ("function_call", _CALLING): {"mode": "ANY", "allowedFunctionNames": ["weather"]},
    ("response_format=json_object", _CONFIG + "responseMimeType"): "application/json",
    ("response_format=json_schema", _CONFIG + "responseJsonSchema"): SCHEMA,
    ("response_format=json_schema", _CONFIG + "responseSchema"): _OPENAPI,
    ("tools", "tools[].functionDeclarations"): _tools(_google_tool),
    ("tool_choice=auto", _CALLING): {"mode": "AUTO"},
    ("tool_choice=none", _CALLING): {"mode": "NONE"},
    ("tool_choice=required", _CALLING): {"mode": "ANY"},
    ("tool_choice=named", _CALLING + ".allowedFunctionNames"): ["weather"],
    ("logprobs", _CONFIG + "responseLogprobs"): True,
    ("top_logprobs", _CONFIG + "logprobs"): 2,
    ("reasoning_effort", _CONFIG + "thinkingConfig"): {
        "thinkingBudget": 24_576,
        "includeThoughts": True,
    },
    **{
        ("reasoning_effort", _CONFIG + "thinkingConfig", family): {
            "thinkingLevel": "HIGH",
            "includeThoughts": True,
        }
        for family in ("Gemini 3.1 Image", "Gemini")
    },
    ("metadata", "labels"): {"user_id": "id-9"},
    ("modalities", _CONFIG + "responseModalities"): ["AUDIO"],
    ("audio", _CONFIG + "speechConfig"): {
        "voiceConfig": {"prebuiltVoiceConfig": {"voiceName": "Kore"}}
    },
    ("service_tier", "(headers)"): {"x-vertex-ai-llm-shared-request-type": "flex"},
    ("web_search_options", "tools[].googleSearch"): {},
    ("role=developer", "systemInstruction"): {"parts": [{"text": "Be kind."}]},
    ("role=developer", "contents[].parts[].text"): Among("Be kind."),
    ("role=function", "contents[].parts[].functionResponse"): {
        "name": "weather",
        "response": {"output": "rain"},
    },
    **{
        ("role=function", "contents[].parts[].functionResponse", family): {
            "id": "call",
            "name": "weather",
            "response": {"output": "rain"},
        }
        for family in ("Gemini 3.1 Image", "Gemini")
    },
    ("message_name", "contents[].parts[].text"): Among("Ann: Hi."),
}


def _aws_tool(name: str) -> dict[str, Any]:
    return {"toolSpec": {"name": name, "description": "Tells.", "inputSchema": {"json": SCHEMA}}}


_ANSWER_TOOL = {
    "toolSpec": {
        "name": "place",
        "description": "Gives the final answer.",
        "inputSchema": {"json": SCHEMA},
    }
}
_JSON_BY_SCHEMA = f"{_JSON_ONLY} It follows this JSON Schema: {orjson.dumps(SCHEMA).decode()}"
# The schema is JSON text there.
_TEXT_FORMAT = {
    "type": "json_schema",
    "structure": {"jsonSchema": {"schema": Json(SCHEMA), "name": "place"}},
}
_MORE = "additionalModelRequestFields."
_NOT_TO_BE_CHOSEN = (
    *("Claude Fable and Mythos 5.1+", "Claude Opus 5.5", "Claude Sonnet 5.5", "gpt-oss"),
    *("GPT-6 Astra, GPT-6.1 Sol", "GPT-5.6, GPT-6", "Qwen3 Coder", "Qwen3", "DeepSeek R1"),
    *("DeepSeek V3", "MiniMax", "Llama", "Mistral", "Palmyra", "Gemma 3", "Nemotron Nano"),
    *("Mistral Large 3, Ministral 3, Magistral, Voxtral", "Gemma, Nemotron"),
)
_BEDROCK: Expected = {
    ("stream", "(url)"): "/converse-stream",
    ("functions", "toolConfig.tools"): _tools(_aws_tool),
    ("function_call", "toolConfig.toolChoice"): {"tool": {"name": "weather"}},
    **{
        ("function_call", "toolConfig.toolChoice", family): Absent() for family in _NOT_TO_BE_CHOSEN
    },
    ("user", "requestMetadata.user"): "user-7",
    ("metadata", "requestMetadata"): {"user_id": "id-9"},
    ("response_format=json_object", "system[].text"): _JSON_ONLY,
    ("response_format=json_schema", "toolConfig.tools"): [_ANSWER_TOOL],
    ("response_format=json_schema", "system[].text"): _JSON_BY_SCHEMA,
    ("response_format=json_schema", "outputConfig.textFormat"): _TEXT_FORMAT,
    ("tools", "toolConfig.tools"): _tools(_aws_tool),
    ("tool_choice=auto", "toolConfig.toolChoice.auto"): {},
    ("tool_choice=none", "toolConfig"): Absent(),
    ("tool_choice=none", _MORE + "tool_choice"): Absent(),
    ("tool_choice=required", "toolConfig.toolChoice.any"): {},
    ("tool_choice=required", "system[].text"): _CALL_A_TOOL,
    ("tool_choice=named", "toolConfig.toolChoice.tool"): {"name": "weather"},
    ("tool_choice=named", "toolConfig.tools"): [_aws_tool("weather")],
    ("parallel_tool_calls", _MORE + "tool_choice.disable_parallel_tool_use"): True,
    ("reasoning_effort", _MORE + "output_config.effort"): "high",
    ("reasoning_effort", _MORE + "thinking"): {"type": "enabled", "budget_tokens": 16_384},
    ("role=developer", "system[].text"): "Be kind.",
    ("role=function", "messages[].content[].toolResult"): {
        "toolUseId": "call",
        "content": [{"text": "rain"}],
        "status": "success",
    },
    ("role=function", "messages[].content[].toolResult", "Palmyra"): {
        "toolUseId": "call",
        "content": [{"text": "rain"}],
    },
    ("message_name", "messages[].content[].text"): Among("Ann: Hi."),
}


def _flat_tool(name: str) -> dict[str, Any]:
    return {
        "type": "function",
        "name": name,
        "description": "Tells.",
        "parameters": SCHEMA,
        # Where chat's functions are not strict, this format's are unless they say so.
        "strict": False,
    }


_FLAT_NAMED = {"type": "function", "name": "weather"}
_RESPONSES: Expected = {
    ("stream_options", "stream_options.include_obfuscation"): False,
    ("store", "store"): False,
    ("logprobs", "include[]"): Among("message.output_text.logprobs"),
    ("functions", "tools"): _tools(_flat_tool),
    ("tools", "tools"): _tools(_flat_tool),
    ("function_call", "tool_choice"): _FLAT_NAMED,
    ("tool_choice=auto", "tool_choice"): "auto",
    ("tool_choice=none", "tool_choice"): "none",
    ("tool_choice=required", "tool_choice"): "required",
    ("tool_choice=required", "instructions"): _CALL_A_TOOL,
    ("tool_choice=named", "tool_choice"): _FLAT_NAMED,
    ("tool_choice=named", "tools"): [_flat_tool("weather")],
    ("response_format=json_object", "text.format"): {"type": "json_object"},
    ("response_format=json_schema", "text.format"): {
        "type": "json_schema",
        "name": "place",
        "schema": SCHEMA,
        "strict": True,
    },
    ("message_name", "input[].content"): Among("Ann: Hi."),
}

EXPECTED: dict[str, Expected] = {
    "bedrock_converse": _BEDROCK,
    "openai_chat": _CHAT,
    "openai_responses": _RESPONSES,
    "anthropic_messages": _CLAUDE,
    "cohere_chat": _COHERE,
    "gemini": _GEMINI,
}
