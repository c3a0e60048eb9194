"""A model of every family of every provider's table."""

from __future__ import annotations

_OPENAI = {
    "gpt-3.5, gpt-4, gpt-4o, gpt-4.1": "gpt-4o-mini",
    "gpt-5-chat": "gpt-5-chat-latest",
    "o3-mini": "o3-mini",
    "o1, o3, o4-mini": "o4-mini",
    "gpt-5, gpt-5-pro, gpt-5.x-chat": "gpt-5-mini",
    "gpt-5.1 to gpt-5.4": "gpt-5.2",
    "gpt-6-astra, gpt-6.1-sol": "gpt-6-astra",
    "gpt-5.5 and later": "gpt-5.6-sol",
    "": "some-model",
}
_GEMINI = {
    "Gemini 3.1 Image": "gemini-3.1-flash-image",
    "Gemini Image and TTS": "gemini-2.5-flash-image",
    "Gemini 2.5 preview": "gemini-2.5-flash-preview-09-2025",
    "Gemini 2.5 Pro": "gemini-2.5-pro",
    "Gemini 2.5": "gemini-2.5-flash",
    "Gemini 2.0": "gemini-2.0-flash",
    "Gemini 1": "gemini-1.5-pro",
    "Gemini": "gemini-3-flash",
    "Gemma": "gemma-3-27b-it",
    "": "some-model",
}

_RESPONSES = {
    "gpt-3.5, gpt-4, gpt-4o, gpt-4.1, gpt-5-chat": "gpt-4o-mini",
    "o-series and deep research": "o3-pro",
    "gpt-5, codex, pro, gpt-5.x-chat, gpt-6-astra, gpt-6.1-sol": "gpt-5.5-pro",
    "gpt-5.1 to gpt-5.4": "gpt-5.2",
    "gpt-5.5 and later": "gpt-5.6-sol",
    "": "some-model",
}
_GROK = {
    "non-reasoning": "grok-4-fast-non-reasoning",
    "grok-3-mini": "grok-3-mini",
    "grok-4, 4-fast, 4.20, code": "grok-4-0709",
    "grok-4.3": "grok-4.3",
    "grok-4.5 and later": "grok-4.7",
    "": "grok-2",
}
_CLAUDE = {
    "Claude Opus 5.5, Fable and Mythos 5.1+": "claude-opus-5-5",
    "Claude Fable 5, Mythos 5": "claude-fable-5",
    "Claude Sonnet 5.5": "claude-sonnet-5-5",
    "Claude Opus 5, Sonnet 5, Haiku 5.5": "claude-sonnet-5",
    "Claude Opus 4.7, 4.8": "claude-opus-4-8",
    "Claude 4.6": "claude-sonnet-4-6",
    "Claude 4.5": "claude-haiku-4-5",
    "Claude Opus 4.1": "claude-opus-4-1",
    "Claude Opus 4": "claude-opus-4-20250514",
    "Claude Sonnet 4, 3.7": "claude-3-7-sonnet-latest",
    "Claude 3.5": "claude-3-5-haiku-20241022",
    "Claude 3 and older": "claude-3-haiku-20240307",
    "other Claude": "claude-future",
    "": "some-model",
}

MODELS: dict[str, dict[str, str]] = {
    "openai": _OPENAI,
    "azure": {"Mistral": "mistral-large-3", **_OPENAI},
    "anthropic": _CLAUDE,
    "vertex_ai-Messages": _CLAUDE,
    "bedrock-Messages": {
        family: f"us.anthropic.{model}" if family else model for family, model in _CLAUDE.items()
    },
    "xai": _GROK,
    "openai-Responses": _RESPONSES,
    "azure-Responses": _RESPONSES,
    "xai-Responses": _GROK,
    "groq": {
        "gpt-oss": "openai/gpt-oss-120b",
        "qwen3.8": "qwen/qwen3.8-27b",
        "qwen3": "qwen/qwen3-32b",
        "DeepSeek R1": "deepseek-r1-distill-llama-70b",
        "": "llama-3.3-70b-versatile",
    },
    "deepseek": {"deepseek-chat": "deepseek-chat", "": "deepseek-v4-pro"},
    "cerebras": {"gpt-oss": "gpt-oss-120b", "": "zai-glm-4.7"},
    "cohere": {
        "Command A+, Command A Reasoning": "command-a-reasoning-08-2025",
        "Command R and older": "command-r-08-2024",
        "Command A, Command R7B, Aya": "command-a-03-2025",
        "": "some-model",
    },
    "bedrock": {
        "Claude Fable and Mythos 5.1+": "anthropic.claude-fable-5-1",
        "Claude Fable and Mythos 5": "anthropic.claude-fable-5",
        "Claude Opus 5.5": "global.anthropic.claude-opus-5-5",
        "Claude Sonnet 5.5": "global.anthropic.claude-sonnet-5-5",
        "Claude Opus 5, Sonnet 5, Haiku 5.5": "anthropic.claude-haiku-5-5",
        "Claude Opus 4.7, 4.8": "anthropic.claude-opus-4-8",
        "Claude 4.6": "us.anthropic.claude-sonnet-4-6",
        "Claude 4.5": "global.anthropic.claude-haiku-4-5-20251001-v1:0",
        "Claude Opus 4, 4.1": "us.anthropic.claude-opus-4-1-20250805-v1:0",
        "Claude Sonnet 4": "us.anthropic.claude-sonnet-4-20250514-v1:0",
        "Claude 3.7": "us.anthropic.claude-3-7-sonnet-20250219-v1:0",
        "Claude 3.5": "anthropic.claude-3-5-haiku-20241022-v1:0",
        "Claude 3 and older": "anthropic.claude-3-haiku-20240307-v1:0",
        "other Claude": "anthropic.claude-future",
        "Nova 2": "global.amazon.nova-2-lite-v1:0",
        "Nova": "us.amazon.nova-pro-v1:0",
        "gpt-oss": "openai.gpt-oss-120b-1:0",
        "GPT-6 Astra, GPT-6.1 Sol": "global.openai.gpt-6.1-sol",
        "GPT-5.6, GPT-6": "global.openai.gpt-6-luna",
        "Grok": "global.xai.grok-4.7",
        "Qwen3 Coder": "qwen.qwen3-coder-30b-a3b-v1:0",
        "Qwen3": "qwen.qwen3-next-80b-a3b",
        "DeepSeek R1": "us.deepseek.r1-v1:0",
        "DeepSeek V3": "deepseek.v3.2",
        "GLM 5.3+": "global.zai.glm-5.3",
        "GLM": "zai.glm-4.7",
        "Kimi": "global.moonshotai.kimi-k3.1",
        "MiniMax": "minimax.minimax-m2.5",
        "Llama": "us.meta.llama4-scout-17b-instruct-v1:0",
        "Mistral Large 3, Ministral 3, Magistral, Voxtral": "mistral.mistral-large-3-675b-instruct",
        "Mistral": "mistral.mistral-small-2402-v1:0",
        "Palmyra": "us.writer.palmyra-x5-v1:0",
        "Gemma 3": "google.gemma-3-27b-it",
        "Nemotron Nano": "nvidia.nemotron-nano-12b-v2",
        "Gemma, Nemotron": "google.gemma-3-4b-it",
        "": "some.model",
    },
    "gemini": _GEMINI,
    "vertex_ai": _GEMINI,
    **{
        name: {"": "some-model"}
        for name in (
            *("together_ai", "mistral", "openrouter", "fireworks", "perplexity", "ollama"),
            *("vllm", "huggingface", "openai_compatible", "sim"),
            *("groq-Responses", "deepseek-Responses", "openrouter-Responses"),
        )
    },
}
