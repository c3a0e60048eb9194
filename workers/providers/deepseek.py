"""DeepSeek: api.deepseek.com. Thinks unless told not to, and wants its thoughts back."""

from __future__ import annotations

from broker.operations import COMPLETE
from workers.dialects.openai_chat import DIALECT
from workers.dialects.openai_chat.parameters import ASKED_CALL, CHAT, ONE_CHOICE, PLAIN, efforts
from workers.dialects.openai_completions import ONE_PROMPT, OpenAiCompletions
from workers.dialects.openai_responses.parameters import STATELESS
from workers.dialects.openai_responses.second import second_format
from workers.parameters import At, Reasoning, clamp, drop, emulate, family
from workers.provider import Provider

_LOGPROBS = ("logprobs", "top_logprobs")
_UNHEARD = ("temperature", "presence_penalty", "frequency_penalty", *_LOGPROBS)
_EFFORTS = efforts("low", "high", "max", off=At("thinking.type", "disabled"))

PROVIDER = Provider(
    name="deepseek",
    dialect=DIALECT,
    base_url="https://api.deepseek.com",
    models=("deepseek-flash", "deepseek-v4-flash", "deepseek-v4-pro"),
    quirks={
        "assistant_fields": "plain",
        "reasoning_field": "reasoning_content",
        "prefix": "/beta/chat/completions",
    },
    operations={
        COMPLETE: OpenAiCompletions(
            DIALECT.error, "/beta/completions", ONE_PROMPT | {"n", "seed", "logit_bias", "user"}
        )
    },
    parameters=CHAT.but(
        (*PLAIN, *ONE_CHOICE),
        drop("seed", "user", "parallel_tool_calls"),
        clamp("stop", None, 16),
        emulate("response_format=json_schema", path="response_format", note="the schema is told"),
        _EFFORTS,
        families=(family("deepseek-chat", "deepseek-chat", drop("reasoning_effort")),),
        reasoning=Reasoning.BY_DEFAULT,
        while_reasoning=(*drop(*_UNHEARD), *ASKED_CALL, *clamp("top_p", 0.95, 1)),
    ),
    alternative=second_format(
        DIALECT.error,
        (*STATELESS, *_EFFORTS, *drop("parallel_tool_calls", *_LOGPROBS)),
        plain_reasoning=True,
        reasoning=Reasoning.BY_DEFAULT,
        while_reasoning=(*ASKED_CALL, *drop("temperature")),
    ),
)
