"""The simulated provider that comes with the broker: works offline, without a key."""

from __future__ import annotations

from typing import Any

from broker.operations import COMPLETE, EMBED, IMAGE, MODERATE, RERANK, SPEAK, TRANSCRIBE
from workers.dialects.openai_chat import DIALECT
from workers.dialects.openai_chat.parameters import CHAT
from workers.dialects.openai_completions import OpenAiCompletions
from workers.dialects.openai_embeddings import OpenAiEmbeddings
from workers.dialects.openai_images import Edits, OpenAiImages
from workers.dialects.openai_moderations import OpenAiModerations
from workers.dialects.openai_speech import OpenAiSpeech
from workers.dialects.openai_transcriptions import OpenAiTranscriptions
from workers.dialects.rerank import Rerank
from workers.provider import Provider


def _sources(body: dict[str, Any], addresses: list[str]) -> None:
    body["images"] = [{"image_url": address} for address in addresses]


PROVIDER = Provider(
    name="sim",
    dialect=DIALECT,
    base_url="http://127.0.0.1:9000/v1",
    models=("sim", "echo"),
    keyless=True,
    operations={
        COMPLETE: OpenAiCompletions(DIALECT.error),
        IMAGE: OpenAiImages(
            DIALECT.error, edits=Edits("/images/edits", _sources), formats=".", streams=True
        ),
        TRANSCRIBE: OpenAiTranscriptions(
            DIALECT.error, formats=("json", "verbose_json", "diarized_json"), streamed=True
        ),
        SPEAK: OpenAiSpeech(
            DIALECT.error, formats={"mp3": "mp3", "wav": "wav", "pcm": "pcm"}, events=True
        ),
        MODERATE: OpenAiModerations(DIALECT.error),
        RERANK: Rerank(DIALECT.error),
        EMBED: OpenAiEmbeddings(DIALECT.error, user=True),
    },
    parameters=CHAT,
)
