"""The request body of POST /v1/chat/completions as types: what is checked, and what the docs show.

The shapes are OpenAI's (openai-python `types/chat/completion_create_params.py`) plus the
platform's own arguments. JSON null counts as unset everywhere. Fields that are not listed here are
allowed in every object: `chat_request` carries them on to the provider.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

Role = Literal["system", "developer", "user", "assistant", "tool", "function"]

# What every JSON parser holds exactly.
TokenLimit = Annotated[int, Meta(ge=1, le=2**53)]
# Milliseconds, an hour at most.
_Wait = Annotated[int, Meta(ge=1, le=3_600_000)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Json = dict[str, Any]
Model = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=1024,
        description="`provider/model`, `model@provider` or `model`.",
    ),
]


class ImageUrl(Struct):
    """An image by address or as a `data:` URL."""

    url: str
    detail: str | None = None


class InputAudio(Struct):
    """Audio as base64, with its format (wav, mp3, ...)."""

    data: str
    format: str


class InputFile(Struct):
    """A file: base64 or a `data:` URL in `file_data`, or the id of an upload."""

    file_data: str | None = None
    file_id: str | None = None
    filename: str | None = None


class ContentPart(Struct):
    """One piece of content. `type` says which of the other fields is set."""

    type: str
    text: str | None = None
    image_url: ImageUrl | str | None = None
    input_audio: InputAudio | None = None
    file: InputFile | None = None
    refusal: str | None = None
    cache_control: Json | None = None


class FunctionCall(Struct):
    """A call of a function: its arguments are JSON text."""

    name: str
    arguments: str | None = None


class CustomCall(Struct):
    """A call of a custom tool: its input is free text."""

    name: str
    input: str | None = None


class ToolCall(Struct):
    """A tool call that the model made on an earlier turn."""

    id: str
    type: str | None = None
    function: FunctionCall | None = None
    custom: CustomCall | None = None


class AudioReference(Struct):
    """An earlier audio answer of the model."""

    id: str
    transcript: str | None = None


class Message(Struct):
    """One turn of the conversation."""

    role: Role
    content: str | list[ContentPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    function_call: FunctionCall | None = None
    refusal: str | None = None
    audio: AudioReference | None = None
    annotations: list[Json] | None = None
    reasoning_content: str | None = None
    reasoning_details: Annotated[
        list[Json] | None,
        Meta(description="Send back what the answer's message had under this name."),
    ] = None
    thinking_blocks: list[Json] | None = None
    cache_control: Json | None = None


class FunctionDefinition(Struct):
    """A function that the model may call; `parameters` is a JSON Schema."""

    name: Annotated[str, Meta(min_length=1)]
    description: str | None = None
    parameters: Json | None = None
    strict: bool | None = None


class CustomDefinition(Struct):
    """A tool with free-text input, optionally bound by a grammar."""

    name: Annotated[str, Meta(min_length=1)]
    description: str | None = None
    format: Json | None = None


class Tool(Struct):
    """`function`, `custom`, or a tool that the provider itself runs (any other type).

    Clients of Mistral leave `type` out of functions.
    """

    type: str | None = None
    function: FunctionDefinition | None = None
    custom: CustomDefinition | None = None
    cache_control: Json | None = None


class JsonSchema(Struct):
    """The schema that the answer has to follow. OpenAI's models need a name, others do not."""

    name: str | None = None
    description: str | None = None
    schema: Json | None = None
    strict: bool | None = None


class ResponseFormat(Struct):
    """`text`, `json_object`, `json_schema`, or a form that only some providers know."""

    type: str
    json_schema: JsonSchema | None = None


class StreamOptions(Struct):
    """Only with `stream`."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class AudioOptions(Struct):
    """How spoken answers sound: a voice's name or `{"id": ...}`, and the audio format."""

    voice: str | Json
    format: str


class Platform(Struct, kw_only=True):
    """The platform's own arguments, which stand beside the fields of every format."""

    tags: Annotated[
        Annotated[str, Meta(max_length=4096)]
        | Annotated[list[Annotated[str, Meta(max_length=256)]], Meta(max_length=32)]
        | None,
        Meta(description="A list, or one string with commas."),
    ] = None
    signature: Annotated[
        Annotated[str, Meta(max_length=1024)] | None,
        Meta(description="Where the request came from, such as an SDK's name."),
    ] = None
    log_query_body: Annotated[
        bool | None, Meta(description="false keeps the request's content out of dead letters.")
    ] = None
    log_response_body: Annotated[
        bool | None,
        Meta(description="Answers are in no log, record or dead letter, whatever this says."),
    ] = None
    region: str | None = None
    use_custom_keys: bool | None = None
    drop_params: Annotated[
        bool | None,
        Meta(description="Unset or true: leave out and report what the provider cannot take."),
    ] = None
    hedge_after_ms: Annotated[
        Annotated[int, Meta(ge=0, le=3_600_000)] | None,
        Meta(description="A second attempt runs when no content came within this time; 0: never."),
    ] = None
    connect_timeout_ms: Annotated[
        _Wait | None, Meta(description="How long connecting to a provider may take.")
    ] = None
    first_token_timeout_ms: Annotated[
        _Wait | None, Meta(description="How long a stream's first token may take.")
    ] = None
    stall_timeout_ms: Annotated[
        _Wait | None, Meta(description="How long a stream may be silent between two tokens.")
    ] = None
    resume: Annotated[
        Literal["verified", "prefill"] | None,
        Meta(description="How a cut answer goes on: run again and compared, or continued."),
    ] = None
    provider: Annotated[Json | None, Meta(description="Routing preferences.")] = None
    models: Annotated[list[str] | None, Meta(description="Further models to try, in order.")] = None
    extra_headers: Annotated[
        dict[str, str | None] | None, Meta(description="Headers to forward to the provider.")
    ] = None
    extra_body: Annotated[
        Json | None, Meta(description="Fields to read as if they stood in the body itself.")
    ] = None


class ChatRequest(Platform):
    """A chat completion request."""

    model: Model
    messages: Annotated[list[Message], Meta(min_length=1)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    logit_bias: dict[str, Annotated[float, Meta(ge=-100, le=100)] | None] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    stop: str | Annotated[list[str], Meta(max_length=4)] | None = None
    max_completion_tokens: TokenLimit | None = None
    max_tokens: TokenLimit | None = None

    tools: Annotated[list[Tool], Meta(max_length=128)] | None = None
    tool_choice: str | Json | None = None
    parallel_tool_calls: bool | None = None
    functions: Annotated[list[FunctionDefinition], Meta(max_length=128)] | None = None
    function_call: str | FunctionCall | None = None

    response_format: ResponseFormat | None = None
    reasoning_effort: str | None = None
    verbosity: str | None = None
    modalities: list[str] | None = None
    audio: AudioOptions | None = None
    prediction: Json | None = None
    web_search_options: Json | None = None

    service_tier: str | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    store: bool | None = None
    metadata: dict[str, str | None] | None = None
