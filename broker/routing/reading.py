"""Reads out of a request what decides where it goes; pure."""

from __future__ import annotations

from broker import operations
from broker.routing import preferences
from broker.routing.world import Ask
from broker.v1 import generation_pb2

_Format = generation_pb2.ResponseFormat
# Of text; good for English prose, and never off by more than a small factor.
CHARACTERS_PER_TOKEN = 4
# Kind of a content part -> the ability that it takes.
_PARTS = {"image": "images", "audio": "audio_input", "file": "pdf"}


def read(request: generation_pb2.Request) -> Ask:
    """Raises `InferenceError` invalid_request where the `provider` object is wrong."""
    platform = request.platform
    needs, tokens = _of_prompt(request.generate)
    return Ask(
        operations.model(request),
        tuple(platform.models),
        preferences.read(platform.provider),
        operations.name(request),
        frozenset(needs),
        tokens,
        platform.region,
    )


def _of_prompt(generate: generation_pb2.GenerateRequest) -> tuple[set[str], int]:
    """Abilities that a prompt takes, and about how many tokens it has."""
    needs, characters = set(), 0
    for message in generate.messages:
        for part in message.parts:
            kind = part.WhichOneof("kind") or ""
            if kind == "text":
                characters += len(part.text.text)
            elif kind in _PARTS:
                needs.add(_PARTS[kind])
    if generate.tools:
        needs.add("tools")
    if generate.response_format.kind == _Format.KIND_JSON_SCHEMA:
        needs.add("json_schema")
    return needs, characters // CHARACTERS_PER_TOKEN
