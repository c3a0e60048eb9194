"""Lines of batches on real workers: every endpoint, every end a line can have."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.system.lines import CHAT, Lines, chat
from tests.system.shared import shared_stack
from tests.system.stack import Stack

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def shared(
    tmp_path_factory: pytest.TempPathFactory, anyio_backend: str
) -> AsyncIterator[Stack]:
    async with shared_stack(tmp_path_factory) as stack:
        yield stack


@pytest.fixture
async def lines(shared: Stack) -> Lines:
    await shared.reset_sim()
    return Lines(shared, f"batch_{next(_numbers):032x}")


ANSWERED: dict[str, tuple[dict[str, Any], str]] = {
    CHAT: (chat(), "chat.completion"),
    "/v1/completions": ({"model": "sim", "prompt": "hello"}, "text_completion"),
    "/v1/embeddings": ({"model": "sim", "input": ["a", "b"]}, "list"),
    "/v1/responses": ({"model": "sim", "input": "hello"}, "response"),
    "/v1/moderations": ({"model": "sim", "input": "hello"}, ""),
    "/v1/images/generations": ({"model": "sim", "prompt": "a cat"}, ""),
}


@pytest.mark.parametrize("endpoint", ANSWERED)
async def test_a_line_of_each_endpoint_is_answered_as_over_http(
    lines: Lines, shared: Stack, endpoint: str
) -> None:
    body, kind = ANSWERED[endpoint]
    status, answer = await lines.one(body, endpoint)
    assert status == 200
    async with shared.client() as client:
        told = (await client.post(endpoint, json={**body, "model": "sim/sim"})).json()
    assert answer.keys() == told.keys()
    assert answer.get("object", "") == told.get("object", "") == kind
