"""Sums the hub's disjoint token classes the OpenAI way."""

from __future__ import annotations

from broker.translate import wire_answer
from broker.v1 import event_pb2


def prompt_tokens(usage: event_pb2.Usage) -> int:
    """All input, however it was read."""
    return (
        usage.input_tokens
        + usage.cache_read_tokens
        + usage.cache_write_tokens
        + usage.input_audio_tokens
        + usage.input_image_tokens
    )


def completion_tokens(usage: event_pb2.Usage) -> int:
    """All output. Prediction tokens are among the output tokens already."""
    return (
        usage.output_tokens
        + usage.reasoning_tokens
        + usage.output_audio_tokens
        + usage.output_image_tokens
    )


def chat_usage(usage: event_pb2.Usage) -> wire_answer.Usage:
    """The `usage` object of chat completions."""
    prompt, completion = prompt_tokens(usage), completion_tokens(usage)
    shown = wire_answer.Usage(
        prompt,
        completion,
        prompt + completion,
        wire_answer.PromptTokensDetails(usage.cache_read_tokens, usage.input_audio_tokens),
        wire_answer.CompletionTokensDetails(
            usage.reasoning_tokens,
            usage.output_audio_tokens,
            usage.accepted_prediction_tokens,
            usage.rejected_prediction_tokens,
        ),
    )
    if usage.cache_write_tokens:
        shown.prompt_tokens_details.cache_write_tokens = usage.cache_write_tokens
    if usage.estimated:
        shown.estimated = True
    return shown


def streamed_usage(completed: event_pb2.Completed) -> wire_answer.Usage:
    """The same at the end of a stream, whose headers were sent before its `cost` was known.

    In dollars, where the prices are known, as OpenRouter has it.
    """
    shown = chat_usage(completed.usage)
    if completed.HasField("cost"):
        shown.cost = completed.cost.nano_usd / 1e9
    return shown
