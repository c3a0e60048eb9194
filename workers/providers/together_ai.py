"""Together AI: api.together.ai. Counts log probabilities in one number; usage comes unasked."""

from __future__ import annotations

from typing import Any

from broker.operations import COMPLETE, EMBED, IMAGE, RERANK, SPEAK, TRANSCRIBE
from workers.dialects.openai_chat import DIALECT
from workers.dialects.openai_chat.parameters import CHAT, NAME_IN_TEXT, PLAIN, USAGE_ALWAYS, efforts
from workers.dialects.openai_completions import ONE_PROMPT, OpenAiCompletions
from workers.dialects.openai_embeddings import OpenAiEmbeddings
from workers.dialects.openai_images import Edits, OpenAiImages, as_width_and_height
from workers.dialects.openai_speech import OpenAiSpeech
from workers.dialects.openai_transcriptions import WHISPER, OpenAiTranscriptions
from workers.dialects.rerank import Rerank
from workers.parameters import At, drop, keep, mapped
from workers.provider import Provider


def _sources(body: dict[str, Any], addresses: list[str]) -> None:
    if len(addresses) == 1:
        body["image_url"] = addresses[0]
    else:
        body["reference_images"] = addresses


_IMAGES = OpenAiImages(
    DIALECT.error,
    takes=frozenset({"n", "output_format"}),
    size=as_width_and_height,
    edits=Edits("/images/generations", _sources),
    formats=".",
    base64="base64",
)
PROVIDER = Provider(
    name="together_ai",
    dialect=DIALECT,
    base_url="https://api.together.ai/v1",
    models=(
        *("meta-llama/Llama-3.3-70B-Instruct-Turbo", "deepseek-ai/DeepSeek-R1"),
        "intfloat/multilingual-e5-large-instruct",
        *("black-forest-labs/FLUX.1-schnell", "openai/whisper-large-v3", "cartesia/sonic-2"),
    ),
    quirks={"top_k": "send", "assistant_fields": "plain"},
    operations={
        IMAGE: _IMAGES,
        TRANSCRIBE: OpenAiTranscriptions(DIALECT.error, fields=WHISPER),
        SPEAK: OpenAiSpeech(
            DIALECT.error,
            formats={"mp3": "mp3", "wav": "wav", "pcm": "raw"},
            speed=False,
            instructions=False,
        ),
        COMPLETE: OpenAiCompletions(
            DIALECT.error, without=ONE_PROMPT | {"suffix", "user", "stream_options"}
        ),
        RERANK: Rerank(DIALECT.error, objects=True),
        EMBED: OpenAiEmbeddings(DIALECT.error, words=None, dimensions="", tokens=False),
    },
    parameters=CHAT.but(
        (*PLAIN, *USAGE_ALWAYS, *NAME_IN_TEXT),
        drop("user", "parallel_tool_calls"),
        keep("logit_bias"),
        mapped("logprobs", "logprobs", note="as a number"),
        mapped("top_logprobs", "logprobs", note="with logprobs"),
        efforts("low", "medium", "high", off=At("reasoning.enabled", False)),
    ),
)
