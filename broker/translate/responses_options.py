"""Checks what a request for a response asks for, whichever front end it came through."""

from __future__ import annotations

from collections.abc import Callable

from broker.translate.metadata import read_metadata
from broker.translate.refusals import invalid, missing
from broker.translate.responses_messages import check_calls
from broker.v1 import generation_pb2

LOGPROBS = "message.output_text.logprobs"
_INCLUDE = (
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "file_search_call.results",
    "message.input_image.image_url",
    LOGPROBS,
    "reasoning.encrypted_content",
    "web_search_call.action.sources",
    "web_search_call.results",
)
_Read = Callable[[generation_pb2.GenerateRequest], str]
# Field of the body -> what it says, "" where that is nothing, and the words that it may.
_WORDS: dict[str, tuple[_Read, tuple[str, ...]]] = {
    "text.verbosity": (lambda generate: generate.verbosity, ("low", "medium", "high")),
    "reasoning.summary": (
        lambda generate: generate.reasoning.summary,
        ("auto", "concise", "detailed"),
    ),
    "truncation": (lambda generate: generate.responses.truncation, ("auto", "disabled")),
}
# The same for ids, which begin with a word.
_IDS: dict[str, tuple[_Read, str]] = {
    "previous_response_id": (lambda generate: generate.responses.previous_response_id, "resp"),
    "conversation": (lambda generate: generate.responses.conversation, "conv"),
}


def check_options(generate: generation_pb2.GenerateRequest) -> None:
    """Check the fields that are wrong by their words, or beside others.

    Raises:
        InferenceError: invalid_request, with `param` as a path into the body.
    """
    options = generate.responses
    if options.HasField("previous_response_id") and options.HasField("conversation"):
        raise invalid(
            "conversation",
            "Mutually exclusive parameters: Ensure you are only providing one of: "
            "'previous_response_id' or 'conversation'.",
            "mutually_exclusive_parameters",
        )
    for param, (read, prefix) in _IDS.items():
        if (name := read(generate)) and not name.startswith(prefix):
            message = (
                f"Invalid '{param}': '{name[:60]}'. Expected an ID that begins with '{prefix}'."
            )
            raise invalid(param, message)
    goes_on = options.previous_response_id or options.conversation
    if not (generate.messages or goes_on or options.prompt):
        raise missing("input")
    for index, word in enumerate(options.include):
        check_word(f"include[{index}]", word, _INCLUDE)
    for param, (read, words) in _WORDS.items():
        if word := read(generate):
            check_word(param, word, words)
    read_metadata(generate.metadata)
    if not goes_on:
        check_calls(generate.messages)


def check_word(param: str, value: str, words: tuple[str, ...]) -> None:
    """Refuse what is none of the words. Raises `InferenceError`."""
    if value not in words:
        known = ", ".join(f"'{word}'" for word in words)
        raise invalid(param, f"Invalid value: '{value}'. Supported values are: {known}.")
