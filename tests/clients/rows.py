"""The rows of the matrix: each call, and the providers and models that it is made with."""

from __future__ import annotations

from collections.abc import Mapping

# Provider -> where its API begins, on the stand-in that speaks for all of them.
PROVIDERS = {
    "openai": "/v1",
    "anthropic": "",
    "gemini": "",
    "mistral": "/v1",
    "groq": "/openai/v1",
    "cohere": "",
    "deepseek": "/v1",
    "together_ai": "/v1",
}

CHAT = {
    "openai": "gpt-4o-mini",
    "anthropic": "claude-haiku-4-5",
    "gemini": "gemini-2.5-flash",
    "mistral": "mistral-small-latest",
    "groq": "openai/gpt-oss-120b",
    "cohere": "command-a-03-2025",
    "deepseek": "deepseek-chat",
    "together_ai": "openai/gpt-oss-20b",
}
# Some complete themselves; of the others chat is asked to.
_COMPLETING = {**CHAT, "openai": "gpt-3.5-turbo-instruct"}
IMAGES = {
    "openai": "gpt-image-1.5",
    "gemini": "gemini-2.5-flash-image",
    "together_ai": "black-forest-labs/FLUX.1-schnell",
}
SPEECH = {
    "openai": "gpt-4o-mini-tts",
    "mistral": "voxtral-mini-tts-latest",
    "groq": "playai-tts",
    "together_ai": "cartesia/sonic-2",
}
_WHISPERS = {
    "openai": "whisper-1",
    "groq": "whisper-large-v3",
    "together_ai": "openai/whisper-large-v3",
}
_TIMED = {**_WHISPERS, "mistral": "voxtral-mini-latest"}
_KEPT = {name: CHAT[name] for name in ("openai", "anthropic", "gemini", "mistral")}
# Files are the same for all.
_TWO = {name: CHAT[name] for name in ("openai", "anthropic")}

ROWS: Mapping[str, Mapping[str, str]] = {
    "chat": CHAT,
    "chat, streamed": CHAT,
    "chat, tools": CHAT,
    "chat, tools streamed": CHAT,
    "chat, parsed": CHAT,
    "completions": _COMPLETING,
    "completions, streamed": _COMPLETING,
    "embeddings": {
        "openai": "text-embedding-3-small",
        "gemini": "gemini-embedding-001",
        "mistral": "mistral-embed",
        "cohere": "embed-v4.0",
        "together_ai": "intfloat/multilingual-e5-large-instruct",
    },
    "images": IMAGES,
    "images, edited": IMAGES,
    "images, streamed": IMAGES,
    "speech": SPEECH,
    "speech, as events": SPEECH,
    "transcriptions": {**_TIMED, "cohere": "cohere-transcribe"},
    "transcriptions, streamed": {**_TIMED, "openai": "gpt-4o-transcribe"},
    "transcriptions, subtitles": _TIMED,
    "translations": _WHISPERS,
    "moderations": {"openai": "omni-moderation-latest", "mistral": "mistral-moderation-latest"},
    "rerank": {"cohere": "rerank-v4.0-pro", "together_ai": "mixedbread-ai/Mxbai-Rerank-Large-V2"},
    "responses": CHAT,
    "responses, streamed": CHAT,
    "responses, tools": CHAT,
    "responses, parsed": CHAT,
    "responses, chained": _KEPT,
    "responses, kept": _KEPT,
    "responses, in the background": _KEPT,
    "responses, cancelled": _KEPT,
    "responses, counted": CHAT,
    "responses, images": _KEPT,
    "responses, images streamed": _KEPT,
    "conversations": _KEPT,
    "messages": CHAT,
    "messages, streamed": CHAT,
    "messages, tools": CHAT,
    "messages, counted": CHAT,
    "files": _TWO,
    "files, in parts": _TWO,
    "models": CHAT,
    "errors": CHAT,
}


def cells() -> list[tuple[str, str]]:
    """Every (row, provider)."""
    return [(row, provider) for row, models in ROWS.items() for provider in models]


def model(row: str, provider: str) -> str:
    return f"{provider}/{ROWS[row][provider]}"
