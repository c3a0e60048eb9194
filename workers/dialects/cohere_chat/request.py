"""Turns a hub request into the body of a Cohere chat call."""

from __future__ import annotations

from typing import Any

import orjson

from broker.errors import InferenceError
from broker.v1 import generation_pb2
from workers.dialects.cohere_chat.messages import Block, Writer
from workers.dialects.cohere_chat.tools import Toolbox, toolbox
from workers.parameters import Losses, Reasoning, asked, settle
from workers.provider import Call, Provider
from workers.standins import read_json

_Generate = generation_pb2.GenerateRequest

# Cohere's own parameters, which OpenAI's API lacks, sent on as they are.
_OWN = {
    "citation_options": "citation_options",
    "documents": "documents",
    "k": "k",
    "p": "p",
    "priority": "priority",
    "safety_mode": "safety_mode",
    "strict_tools": "strict_tools",
    "thinking": "thinking",
    "top_k": "k",
}
# Source: https://docs.cohere.com/docs/reasoning; the largest leaves 1K of the 32K of output.
_BUDGETS = {
    "minimal": 512,
    "low": 2048,
    "medium": 8192,
    "high": 16_384,
    "xhigh": 31_000,
    "max": 31_000,
}
_PATH = "/v2"


def call_of(request: generation_pb2.Request, model: str, provider: Provider) -> Call:
    """The call to make; `InferenceError` for what cannot be asked of Cohere."""
    try:
        body, losses = _body(request, model, provider)
        data = orjson.dumps(body)
    except (orjson.JSONEncodeError, RecursionError) as exc:
        # Only a schema or arguments nested hundreds deep get here.
        message = f"The request cannot be written as JSON: {exc}"
        raise InferenceError("invalid_request", message) from exc
    losses.refuse(request.platform, model)
    prefix = "" if provider.base_url.rstrip("/").endswith(_PATH) else _PATH
    headers = {"content-type": "application/json"}
    return Call(f"{prefix}/chat", data, headers, dropped=losses.names)


def _body(request: generation_pb2.Request, model: str, provider: Provider) -> tuple[Block, Losses]:
    generate = request.generate
    losses = Losses()
    sheet = provider.parameters.sheet(model)
    effort = generate.reasoning.effort if generate.reasoning.HasField("effort") else None
    body: Block = {"model": model}
    body |= _own(generate, losses)
    rest = settle(sheet.rows_for(effort), asked(generate), body, losses)
    box = toolbox(generate, sheet.rows, bool(body.get("documents")), losses)
    thinks = sheet.reasoning is not Reasoning.NEVER
    body["messages"] = Writer(thinks).conversation(generate)
    _instruct(body["messages"], box)
    body |= box.fields
    if "reasoning_effort" in rest and "thinking" not in body:
        body["thinking"] = _thinking(rest["reasoning_effort"], body.get("max_tokens"))
    return body, losses


def _own(generate: _Generate, losses: Losses) -> Block:
    """The fields beyond OpenAI's that Cohere knows; it ignores others without a word."""
    own: Block = {}
    for name, data in generate.extra.items():
        if name in _OWN:
            own[_OWN[name]] = read_json(data, name)
        else:
            losses.drop(name)
    return own


def _instruct(messages: list[Block], box: Toolbox) -> None:
    """Puts what has no parameter into the system prompt, behind what it says already."""
    if not box.instructions:
        return
    place = next((i for i, m in enumerate(messages) if m["role"] != "system"), len(messages))
    told = [{"role": "system", "content": text} for text in box.instructions]
    messages[place:place] = told


def _thinking(effort: str, limit: Any) -> Block:
    if effort == "none":
        return {"type": "disabled"}
    budget = _BUDGETS.get(effort)
    if budget is None:
        raise InferenceError(
            "invalid_request", f"Unknown effort {effort!r}.", param="reasoning_effort"
        )
    if limit is not None:
        # Thinking counts towards the limit: an answer has to be left.
        budget = min(budget, limit * 3 // 4)
    if not budget:
        return {"type": "disabled"}
    return {"type": "enabled", "token_budget": budget}
