"""The second question to a model whose tool the broker ran, in the format of every provider."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any

import pytest

from broker.providers import REGISTRY
from broker.translate import hosted_images
from broker.translate.responses_request import parse_responses
from broker.v1 import content_pb2, generation_pb2
from workers.registry import provider

MODELS = {"bedrock": "anthropic.claude-sonnet-4-6", "cohere": "command-a-03-2025"}
ITEM = {"type": "image_generation_call", "id": "ig_1", "result": b64encode(b"x").decode()}


def second(**fields: Any) -> generation_pb2.Request:
    """What is asked after a picture was drawn, with one of an earlier turn before it."""
    body = {
        "model": "m",
        "input": [
            {"role": "user", "content": "draw"},
            ITEM,
            {"role": "assistant", "content": [{"type": "output_text", "text": "Here."}]},
            {"role": "user", "content": "another"},
        ],
        "tools": [{"type": "image_generation"}],
        **fields,
    }
    request = parse_responses(json.dumps(body).encode())
    tool = hosted_images.read_tool(request.generate)
    asked = hosted_images.with_function(request, tool)
    said = content_pb2.Message(role=content_pb2.ROLE_ASSISTANT)
    said.parts.add().text.text = "I will."
    call = said.parts.add().tool_call
    call.call_id, call.name, call.arguments = "call_new", "image_generation", b'{"prompt": "p"}'
    hosted_images.go_on(asked, said, [("call_new", "The image was drawn.")], again=True)
    return asked


@pytest.mark.parametrize("name", REGISTRY)
def test_every_format_carries_the_calls_and_what_came_of_them(name: str) -> None:
    found, model = provider(name), MODELS.get(name, "m")
    request = second(tool_choice={"type": "image_generation"})
    serving = found.serving(request, model)
    body = serving.dialect_for(model).call(request, model, serving).body.decode()
    assert body.count("The image was drawn") == 2
    assert '"image_generation"' in body
    assert "image_generation_call" not in body
    assert "ig_1" not in body
