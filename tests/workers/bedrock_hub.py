"""What the bedrock provider makes of hub requests, each held to the service's own model."""

from __future__ import annotations

import functools
import json
from typing import Any

import pytest
from botocore.loaders import Loader
from botocore.model import ServiceModel
from botocore.validate import ParamValidator

from broker.errors import InferenceError
from tests.workers.anthropic_hub import C, G
from workers import registry
from workers.provider import Call

BEDROCK = registry.provider("bedrock")
OLD_CLAUDE = "anthropic.claude-3-5-haiku-20241022-v1:0"
CLAUDE_4 = "us.anthropic.claude-sonnet-4-20250514-v1:0"
CLAUDE = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"
ADAPTIVE = "global.anthropic.claude-opus-4-8"
NEWEST = "global.anthropic.claude-opus-5-5"
NOVA, NOVA_2 = "us.amazon.nova-lite-v1:0", "global.amazon.nova-2-lite-v1:0"
LLAMA = "us.meta.llama4-maverick-17b-instruct-v1:0"
MISTRAL = "us.mistral.pixtral-large-2502-v1:0"
PALMYRA = "us.writer.palmyra-x5-v1:0"
QWEN = "qwen.qwen3-32b-v1:0"
GPT_OSS = "openai.gpt-oss-120b-1:0"
HIDDEN = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/mi1dadi0g15f"


@functools.cache
def _shape() -> Any:
    model = ServiceModel(Loader().load_service_model("bedrock-runtime", "service-2"))
    return model.operation_model("Converse").input_shape


def call(asked: G.Request, model: str = CLAUDE) -> Call:
    return BEDROCK.dialect.call(asked, model, BEDROCK)


def body(asked: G.Request, model: str = CLAUDE) -> Any:
    sent = json.loads(call(asked, model).body)
    report = ParamValidator().validate({**sent, "modelId": model}, _shape())
    assert not report.has_errors(), report.generate_report()
    return sent


def turns(asked: G.Request, model: str = CLAUDE) -> list[tuple[str, Any]]:
    return [(turn["role"], turn["content"]) for turn in body(asked, model)["messages"]]


def dropped(asked: G.Request, model: str = CLAUDE) -> set[str]:
    return set(call(asked, model).dropped)


def refusal(asked: G.Request, model: str = CLAUDE) -> InferenceError:
    with pytest.raises(InferenceError) as caught:
        call(asked, model)
    return caught.value


def effort(word: str) -> dict[str, Any]:
    return {"reasoning": G.ReasoningOptions(effort=word)}


def choice(mode: str, *names: str, **more: Any) -> G.ToolChoice:
    return G.ToolChoice(mode=G.ToolChoice.Mode.Value(f"MODE_{mode}"), names=names, **more)


def signed(text: str, signature: str = "sig", issuer: str = "bedrock_converse") -> C.Part:
    blob = C.Blob(issuer=issuer, kind="signature", data=signature.encode())
    return C.Part(reasoning=C.Reasoning(text=text, blobs=[blob]))
