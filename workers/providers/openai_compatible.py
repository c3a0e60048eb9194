"""Any server that speaks the OpenAI chat format: vLLM, Ollama, LM Studio, a gateway.

Assumes the weakest contract: older servers know neither `max_completion_tokens` nor the developer
role, and answer both with an error or, worse, with silence.
"""

from __future__ import annotations

from broker.operations import COMPLETE, EMBED, IMAGE, MODERATE, RERANK, SPEAK, TRANSCRIBE
from workers.dialects.openai_chat import DIALECT
from workers.dialects.openai_chat.parameters import (
    CHAT,
    FUNCTIONS_AS_TOOLS,
    MAX_TOKENS,
    SYSTEM_ROLE,
)
from workers.dialects.openai_completions import OpenAiCompletions
from workers.dialects.openai_embeddings import OpenAiEmbeddings
from workers.dialects.openai_images import FORM, OpenAiImages
from workers.dialects.openai_moderations import OpenAiModerations
from workers.dialects.openai_speech import OpenAiSpeech
from workers.dialects.openai_transcriptions import OpenAiTranscriptions
from workers.dialects.rerank import Rerank
from workers.provider import Provider

PROVIDER = Provider(
    name="openai_compatible",
    dialect=DIALECT,
    base_url="",  # the operator's: there is no such host
    keyless=True,
    quirks={"cache_control": "send"},
    operations={
        IMAGE: OpenAiImages(DIALECT.error, edits=FORM, formats=".", streams=True),
        TRANSCRIBE: OpenAiTranscriptions(DIALECT.error),
        SPEAK: OpenAiSpeech(DIALECT.error),
        COMPLETE: OpenAiCompletions(DIALECT.error),
        MODERATE: OpenAiModerations(DIALECT.error),
        RERANK: Rerank(DIALECT.error),
        EMBED: OpenAiEmbeddings(DIALECT.error, user=True, input_type=True),
    },
    parameters=CHAT.but(MAX_TOKENS, SYSTEM_ROLE, FUNCTIONS_AS_TOOLS),
)
