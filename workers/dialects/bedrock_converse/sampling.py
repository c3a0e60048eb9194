"""Fits the limit of output and the sampling parameters to the model and to each other."""

from __future__ import annotations

from typing import Any

from broker.v1 import generation_pb2
from workers.dialects.bedrock_converse.families import Facts
from workers.parameters import Losses
from workers.parameters.settle import put
from workers.parameters.table import Sheet

# Kept for the visible answer beside a thinking budget.
_ROOM = 4096
# What Nova's reasoning refuses beside its highest effort, by the names of callers.
_NOT_AT_HIGH = {"temperature": "temperature", "topP": "top_p", "maxTokens": "max_tokens"}

Block = dict[str, Any]


def limit_of(
    request: generation_pb2.GenerateRequest, body: Block, most: float | None
) -> int | None:
    """The caller's limit of output as the model will see it; None where there is none."""
    own = body.get("inferenceConfig", {}).get("maxTokens")
    if isinstance(own, int):
        return own
    if request.HasField("max_output_tokens"):
        limit = request.max_output_tokens
    elif request.HasField("max_tokens"):
        limit = request.max_tokens
    else:
        return None
    return limit if most is None else min(limit, int(most))


def fit_sampling(body: Block, facts: Facts, losses: Losses) -> None:
    """Takes out what the model refuses beside something else."""
    config = body.get("inferenceConfig")
    if config is None:
        return
    stops = config.get("stopSequences")
    if facts.claude is not None and isinstance(stops, list):
        kept = [stop for stop in stops if not isinstance(stop, str) or stop.strip()]
        if len(kept) < len(stops):
            losses.drop("stop")  # blank ones are refused
        config["stopSequences"] = kept
        if not kept:
            del config["stopSequences"]
    one = facts.claude is not None and facts.claude.one_of_sampling
    if one and {"temperature", "topP"} <= config.keys():
        del config["topP"]
        losses.drop("top_p")
    reasoning = body.get("additionalModelRequestFields", {}).get("reasoningConfig")
    level = reasoning.get("maxReasoningEffort") if isinstance(reasoning, dict) else None
    if facts.bare_at_high and level == "high":
        for name in _NOT_AT_HIGH.keys() & config.keys():
            del config[name]
            losses.drop(_NOT_AT_HIGH[name])
    if not config:
        del body["inferenceConfig"]


def apply_defaults(body: Block, sheet: Sheet) -> None:
    """Sends the family's defaults; a default limit leaves room for the thinking budget."""
    for path, value in sheet.defaults.items():
        put(body, path, value)
    thinking = body.get("additionalModelRequestFields", {}).get("thinking")
    budget = thinking.get("budget_tokens") if isinstance(thinking, dict) else None
    config = body.get("inferenceConfig", {})
    limit = config.get("maxTokens")
    if isinstance(budget, int) and isinstance(limit, int) and limit <= budget:
        # Only a default can be that small: the caller's limit has shaped the budget.
        most = sheet.rows["max_tokens"].high
        config["maxTokens"] = int(min(budget + _ROOM, most or budget + _ROOM))
