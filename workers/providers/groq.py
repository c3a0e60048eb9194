"""Groq: api.groq.com. Refuses what it does not know; Responses only for what chat cannot carry."""

from __future__ import annotations

from broker.operations import SPEAK, TRANSCRIBE
from workers.batches.files import FileBatches
from workers.dialects.openai_chat import DIALECT
from workers.dialects.openai_chat import parameters as chat
from workers.dialects.openai_responses.parameters import STATELESS
from workers.dialects.openai_responses.second import second_format
from workers.dialects.openai_speech import OpenAiSpeech
from workers.dialects.openai_transcriptions import WHISPER, OpenAiTranscriptions
from workers.parameters import drop, family, words
from workers.provider import Provider

_ALL = ("low", "medium", "high")
_ON = {"none": "none", **dict.fromkeys(("minimal", *_ALL, "xhigh", "max"), "default")}
_TIERS = ("auto", "on_demand", "flex", "performance")
_PARSED = {"reasoning_format": "parsed"}  # raw, the default of some, is refused with tools
_LOGPROBS = drop("logprobs", "top_logprobs")
_SECOND = (*STATELESS, *chat.efforts("none", *_ALL), *_LOGPROBS)

_AUDIO = ("whisper-large-v3", "whisper-large-v3-turbo", "playai-tts")
PROVIDER = Provider(
    name="groq",
    dialect=DIALECT,
    base_url="https://api.groq.com/openai/v1",
    models=("openai/gpt-oss-120b", "openai/gpt-oss-20b", "qwen/qwen3-32b", *_AUDIO),
    quirks={"assistant_fields": "plain", "reasoning_field": "reasoning"},
    operations={
        TRANSCRIBE: OpenAiTranscriptions(
            DIALECT.error,
            fields=WHISPER,
        ),
        SPEAK: OpenAiSpeech(
            DIALECT.error,
            formats={"mp3": "mp3", "flac": "flac", "wav": "wav"},
            instructions=False,
        ),
    },
    parameters=chat.CHAT.but(
        (*chat.NO_EXTRAS, *chat.NO_EFFORT, *chat.USAGE_ALWAYS),
        (*chat.ONE_CHOICE, *chat.NAME_IN_TEXT),
        (*drop("presence_penalty", "frequency_penalty"), *_LOGPROBS),
        words("service_tier", {"default": "on_demand", **{tier: tier for tier in _TIERS}}),
        families=(
            family("gpt-oss", "gpt-oss", chat.efforts(*_ALL)),
            family("qwen3.8", r"qwen3\.8", chat.efforts("none", *_ALL), defaults=_PARSED),
            family("qwen3", "qwen3", words("reasoning_effort", _ON), defaults=_PARSED),
            family("DeepSeek R1", "deepseek-r1", defaults=_PARSED),
        ),
    ),
    batches=FileBatches(frozenset({"/chat/completions"})),
    alternative=second_format(DIALECT.error, _SECOND, needed_only=True, plain_reasoning=True),
)
