"""Counts tokens by the length of the texts, for answers that come without counts; pure."""

from __future__ import annotations

from broker.v1 import content_pb2, event_pb2, generation_pb2

# Good for English prose, and never off by more than a small factor for anything else.
CHARS_PER_TOKEN = 4


def estimate(
    request: generation_pb2.Request, output_chars: int, reasoning_chars: int
) -> event_pb2.Usage:
    """Usage for a provider that reported none: a token per four characters, marked as estimated.

    Counts texts, tool calls, tool results and tool definitions; images, audio and files count
    nothing, because what they cost depends on the model.
    """
    return event_pb2.Usage(
        input_tokens=_tokens(_prompt_chars(request)),
        output_tokens=_tokens(output_chars),
        reasoning_tokens=_tokens(reasoning_chars),
        estimated=True,
    )


def _prompt_chars(request: generation_pb2.Request) -> int:
    if not request.HasField("complete"):
        return _read_chars(request.generate)
    complete = request.complete
    tokens = sum(len(prompt.ids) for prompt in complete.tokens)
    return sum(map(len, complete.prompts)) + tokens * CHARS_PER_TOKEN


def counted(request: generation_pb2.Request) -> list[event_pb2.Event]:
    """The answer to a request to count tokens, for a provider that counts for nobody."""
    number = _tokens(_read_chars(request.count_tokens))
    count = event_pb2.TokenCount(input_tokens=number, estimated=True)
    return [
        event_pb2.Event(started=event_pb2.Started()),
        event_pb2.Event(token_count=count),
        event_pb2.Event(completed=event_pb2.Completed(usage=event_pb2.Usage())),
    ]


def _read_chars(generate: generation_pb2.GenerateRequest) -> int:
    read = sum(_part_chars(part) for message in generate.messages for part in message.parts)
    for tool in generate.tools:
        function = tool.function
        read += len(function.name) + len(function.description) + len(function.parameters)
        read += len(tool.hosted.json)
    return read


def _part_chars(part: content_pb2.Part) -> int:
    if part.HasField("tool_result"):
        return sum(_part_chars(inner) for inner in part.tool_result.parts)
    call = part.tool_call
    return len(part.text.text) + len(call.name) + len(call.arguments)


def _tokens(chars: int) -> int:
    return -(-chars // CHARS_PER_TOKEN)
