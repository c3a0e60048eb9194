"""Budgets for thinking leave room for an answer, whatever the effort, the limit and the model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from broker.v1 import generation_pb2
from tests.workers.parameters.cells import TABLES
from tests.workers.parameters.models import MODELS
from tests.workers.parameters.samples import request

EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", None)
LIMITS = (None, 1, 16, 1023, 1024, 1025, 2048, 5000, 20_000, 64_000, 200_000)
BUDGETS = ("budget_tokens", "token_budget", "thinkingBudget")
MOST = ("max_tokens", "maxTokens", "maxOutputTokens")
# Gemini 2.5 Pro thinks this much at least, also where that is more than it may write.
LEAST = {"gemini-2.5-pro": 128}
THINKING = ("anthropic", "bedrock", "bedrock-Messages", "cohere", "gemini", "vertex_ai")


def _found(value: Any, names: tuple[str, ...]) -> Iterator[int]:
    if isinstance(value, dict):
        for name, inner in value.items():
            if name in names:
                yield inner
            yield from _found(inner, names)


def _asked(effort: str | None, limit: int | None) -> generation_pb2.Request:
    asked = request("stream", effort=effort)
    if limit is not None:
        asked.generate.max_tokens = limit
    return asked


@pytest.mark.parametrize(
    ("table", "model"), [(table, model) for table in THINKING for model in MODELS[table].values()]
)
def test_a_budget_is_less_than_the_limit(table: str, model: str) -> None:
    provider = TABLES[table]
    for effort in EFFORTS:
        for limit in LIMITS:
            call = provider.dialect_for(model).call(_asked(effort, limit), model, provider)
            body = json.loads(call.body)
            for budget in _found(body, BUDGETS):
                most = next(_found(body, MOST), None)
                fits = most is None or budget < most or budget == LEAST.get(model)
                assert fits, (effort, limit, budget)
                assert effort != "none" or budget <= LEAST.get(model, 0), (effort, budget)
